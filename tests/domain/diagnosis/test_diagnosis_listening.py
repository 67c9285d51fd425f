# SPDX-License-Identifier: Apache-2.0
"""The list of listening programs: the question is run in a real shell, and any answer is parsed."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.diagnosis import ASK_LISTENERS, MAX_LISTENERS, Listener, parse_listeners


def test_the_question_finds_ipv4_and_ipv6_listeners() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as four,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as six,
    ):
        ended = subprocess.run(
            ASK_LISTENERS, capture_output=True, text=True, check=True, timeout=60
        )
        ports = {server.getsockname()[1] for server in (four, six)}
    words = Path("/proc/self/cmdline").read_text().replace("\0", " ").strip()
    lines = [line.split(" ", 2) for line in ended.stdout.splitlines()]
    own = {int(at, 16): command.strip() for pid, at, command in lines if int(pid) == os.getpid()}
    assert ports <= set(own)
    assert {own[port][:80] for port in ports} == {words[:80]}


def test_an_answer_is_sorted_and_leaves_out_the_ssh_server() -> None:
    answer = (
        "7 0BB8 node a.js \n12 0050 nginx\n3 0016 /lib/dropbear -F\nrubbish\n7 0BB8 node a.js\n"
    )
    assert parse_listeners(answer) == (Listener(80, 12, "nginx"), Listener(3000, 7, "node a.js"))


@given(st.text(max_size=300))
def test_any_answer_is_parsed_within_bounds(text: str) -> None:
    assert len(parse_listeners(text * 50)) <= MAX_LISTENERS

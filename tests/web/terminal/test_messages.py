# SPDX-License-Identifier: Apache-2.0
"""The query and the messages of a terminal, as hostile clients send them."""

from __future__ import annotations

import pytest

from waggle.domain.errors import InvalidArgument
from waggle.domain.programs.guest_job import Terminal
from waggle.web.terminal import environment_in
from waggle.web.terminal.messages import Resize, Signal, Wanted, parse_control, parse_wanted


def test_a_query_names_a_size_a_job_and_where_to_begin() -> None:
    assert parse_wanted(b"") == Wanted()
    assert parse_wanted(b"rows=50") == Wanted(Terminal(50, 80), has_size=True)
    wanted = parse_wanted(b"rows=50&columns=200&job=3&offset=17&user=root")
    assert wanted == Wanted(Terminal(50, 200), True, 3, 17, "root")


@pytest.mark.parametrize(
    "query",
    [
        b"rows=0",
        b"rows=1001",
        b"rows=-1",
        b"rows=",
        b"rows=1e3",
        b"rows=%D9%A3",
        b"rows=1&rows=1",
        b"columns=99999999999999999999999",
        b"job=3&offset=-5",
        b"offset=5",
        b"job=x",
        b"user=nobody",
        b"token=abc",
        b"\xff=1",
        b"&".join(b"a%d=1" % number for number in range(100)),
    ],
)
def test_any_other_query_is_refused(query: bytes) -> None:
    with pytest.raises(InvalidArgument):
        parse_wanted(query)


def test_a_client_may_resize_and_send_signals() -> None:
    assert parse_control('{"resize": [24, 80]}') == Resize(Terminal(24, 80))
    assert parse_control('{"signal": "INT"}') == Signal("INT")
    assert parse_control('{"signal": "SIGKILL"}') == Signal("KILL")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "[]",
        "null",
        "3",
        "{}",
        '{"resize": [24, 80], "signal": "INT"}',
        '{"resize": [24]}',
        '{"resize": [24, 80, 1]}',
        '{"resize": [24, true]}',
        '{"resize": [24, 80.0]}',
        '{"resize": [24, "80"]}',
        '{"resize": [0, 80]}',
        '{"resize": [24, 1001]}',
        '{"resize": [24, NaN]}',
        '{"resize": {"0": 24}}',
        '{"signal": 9}',
        '{"signal": "SEGV"}',
        '{"signal": "SIGSIGINT"}',
        '{"signal": ["INT"]}',
        '{"exit": 0}',
        "[" * 900,
        '{"signal": "INT"}' + " " * 1_000,
    ],
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_control(text)


def test_only_paths_of_terminals_name_an_environment() -> None:
    assert environment_in("/environments/box/terminal") == "box"
    for path in (
        "/environments//terminal",
        "/environments/terminal",
        "/environments/a/b/terminal",
        "/environments/box/terminal/",
        "/environments/box",
        "/mcp",
        "/x/environments/box/terminal",
    ):
        assert environment_in(path) is None

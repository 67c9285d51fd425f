# SPDX-License-Identifier: Apache-2.0
"""What the agent notes of requests in the logs: no name of a file ends a line or a member there."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from tests.support.agent_program import ALL, SECONDS, Agent, full_request, running_agent
from tests.support.programs import program

from waggle.infra.guest.protocol import ErrorCode
from waggle.infra.guest.protocol.audit import Audit

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="NOT TESTED: only root can give an agent a /dev of its own"
)
FORGED = 'waggle-agent[1]: {"method":"file_read","outcome":"ok","subject":"/etc/shadow"}'
HOSTILE = {
    "a line's end": f"/a\n<86>{FORGED}",
    "a carriage return": f"/a\r{FORGED}",
    "a member's end": '/a","outcome":"ok","extra":"',
    "a backslash before a member's end": '/a\\","outcome":"ok","extra":"',
    "an escape of a terminal": "/a\x1b[2K\x1b[1G\x9b2K\x08\x7f",
    "ends of lines of Unicode": "/a\u0085b\u2028c\u2029d",
    "text from right to left": "/a\u202egnp.exe",
    "the longest that is escaped the most": "/" + "\x01\u20ac" * 1000,
}
MEMBERS = (6_000, 6_100, 6_110)
"""Of a request that takes nearly all memory: see test_requests.py."""
MAX_LINE = 970
"""Bytes that the kernel's log takes in one line."""


class Logs:
    """The system's log, and the kernel's, as the agent of a test finds them. One test's."""

    def __init__(self, directory: Path) -> None:
        self._place = directory / "log"
        self._kernel = directory / "kmsg"
        self._kernel.touch()
        made = "mount -t tmpfs none /dev && mknod /dev/null c 1 3"
        linked = "ln -s $0/log $0/kmsg /dev/"
        shell = (program("sh"), "-c", f'{made} && {linked} && exec "$@"', str(directory))
        self.prefix = (program("unshare"), "--mount", *shell)
        self.open()

    def open(self) -> None:
        """Begin to listen, as the system's log does."""
        self._system = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._system.settimeout(SECONDS)
        self._system.bind(str(self._place))

    def close(self) -> None:
        """End it."""
        self._system.close()
        self._place.unlink()

    def entry(self) -> bytes:
        """Return what was sent to the system's log next."""
        return self._system.recv(1 << 16)

    def kernel_entries(self) -> list[bytes]:
        """Return what was written to the kernel's log."""
        return self._kernel.read_bytes().splitlines(keepends=True)


@pytest.fixture
def logs(tmp_path: Path) -> Generator[Logs]:
    made = Logs(tmp_path)
    yield made
    made.close()


@pytest.fixture
def agent(agent_program: Path, tmp_path: Path, logs: Logs) -> Generator[Agent]:
    noting = {**ALL, "audit": ["syslog", "kmsg", "port"]}
    with running_agent(agent_program, tmp_path, noting, prefix=logs.prefix) as running:
        yield running


def parsed(entry: bytes) -> dict[str, Any]:
    """Parse an entry of a log as an operator would: the tag, and one object of printable ASCII."""
    found = re.fullmatch(rb"<\d+>waggle-agent\[\d+\]: (\{[ -~]*\})", entry)
    assert found, entry
    members: list[str] = []

    def take(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members.extend(name for name, _ in pairs)
        return dict(pairs)

    said = json.loads(found[1], object_pairs_hook=take)
    assert members[:4] == ["method", "outcome", "subject", "seconds"]
    assert len(members) == len(set(members)) == len(said)
    Audit.model_validate(said)
    return said


def facts(said: dict[str, Any]) -> tuple[str, str, str]:
    return said["method"], said["outcome"], said["subject"]


def test_a_request_is_noted_in_each_log(agent: Agent, logs: Logs) -> None:
    agent.result("ping")
    agent.result("file_read", path="/etc/passwd")
    wanted = ("file_read", "ok", "/etc/passwd")
    said = parsed(logs.entry())
    assert facts(said) == wanted
    assert 0 < said["seconds"] < SECONDS
    [kernels] = logs.kernel_entries()
    assert facts(parsed(kernels.removesuffix(b"\n"))) == wanted
    while (notice := agent.message()).get("method") != "audit":
        pass
    assert notice["params"] == said


@pytest.mark.parametrize("path", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("method", ["file_read", "exec_command"])
def test_no_path_makes_a_line_or_a_member(agent: Agent, logs: Logs, method: str, path: str) -> None:
    agent.error(method, **({"argv": [path]} if method == "exec_command" else {"path": path}))
    entry = logs.entry()
    [kernels] = logs.kernel_entries()
    assert len(kernels) < MAX_LINE
    for said in (parsed(entry), parsed(kernels.removesuffix(b"\n"))):
        assert facts(said)[:2] in ((method, "not_found"), (method, "failed"))
        shown = said["subject"].rstrip("\ufffd")
        assert shown, said
        assert path.replace("\x7f", "\ufffd").startswith(shown)


def test_no_method_makes_a_line_or_a_member(agent: Agent, logs: Logs) -> None:
    for name in HOSTILE.values():
        agent.error(name)
        said = parsed(logs.entry())
        assert facts(said)[:2] == ("", "method_not_found")
        assert said["subject"].startswith("/")


def test_what_is_refused_at_once_is_noted_with_its_subject(agent: Agent, logs: Logs) -> None:
    agent.error("file_read", path="/a/../b")
    assert facts(parsed(logs.entry())) == ("file_read", "invalid_params", "/a/../b")


@pytest.mark.parametrize("count", MEMBERS)
def test_a_request_that_takes_all_memory_is_noted(agent: Agent, logs: Logs, count: int) -> None:
    """So that nobody hides what is refused behind its size."""
    agent.send(full_request(count) + b"\n")
    while "error" not in (answer := agent.message()):
        pass  # the note at the host
    assert answer["error"]["code"] == ErrorCode.INVALID_PARAMS
    assert facts(parsed(logs.entry())) == ("file_read", "invalid_params", "/a/../b")


def test_what_could_not_be_noted_is_counted(agent: Agent, logs: Logs) -> None:
    logs.close()
    for _ in range(3):
        agent.error("file_read", path="relative")
    logs.open()
    agent.error("file_read", path="relative")
    assert parsed(logs.entry())["lost"] == 3
    agent.error("file_read", path="relative")
    assert "lost" not in parsed(logs.entry())

# SPDX-License-Identifier: Apache-2.0
"""The installed asyncssh still has the names and signatures that it does not document.

A new version may change them; then the bounds on a hostile server have no effect, and these tests
say which one changed.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import asyncssh
import pytest
from asyncssh.channel import SSHChannel
from asyncssh.sftp import start_sftp_client

import waggle
from waggle.infra.ssh.asyncssh_internals import INTERNALS
from waggle.infra.ssh.bounded import BoundedConnection

BASE = asyncssh.connection.SSHConnection
SOURCES = Path(waggle.__file__).parent
FENCE = SOURCES / "infra/ssh/asyncssh_internals.py"
INSIDE = re.compile(
    r"from asyncssh(\.| import [a-z])|asyncssh\.[a-z]+\.|\._send_pktsize|\._recv_handler"
)
CODE: tuple[tuple[type, str, str], ...] = (
    (BASE, "_recv_data", "while self._inpbuf and self._recv_handler():"),
    (BASE, "data_received", "self._recv_data()"),
    (BASE, "_recv_packet", "self._recv_handler = lambda: False"),
    (BASE, "_recv_packet", "handler.process_packet(pkttype, seq, packet)"),
    (BASE, "send_packet", "self._deferred_packets.append("),
    (BASE, "_force_close", "self._transport = None"),
    (BASE, "get_extra_info", "if self._transport else default"),
    (SSHChannel, "_flush_send_buf", "min(self._send_window, self._send_pktsize)"),
)
SFTP_PARAMETERS = (
    "conn", "loop", "utf8_decode_errors", "reader", "writer", "path_encoding", "path_errors",
    "sftp_version",
)  # fmt: skip


def changed(what: str) -> str:
    return f"asyncssh {asyncssh.__version__} has no {what} any more: see {FENCE.name}"


@pytest.mark.parametrize("owner, name", INTERNALS)
def test_a_private_name_is_still_there(owner: type, name: str) -> None:
    modules = {base.__module__ for base in owner.__mro__}
    theirs = [sys.modules[module] for module in modules if module.startswith("asyncssh.")]
    sources = "".join(map(inspect.getsource, theirs))
    assert re.search(rf"self\.{name}\b", sources), changed(f"{owner.__name__}.{name}")


@pytest.mark.parametrize("owner, name, line", CODE)
def test_the_code_that_the_hooks_rely_on_is_unchanged(owner: type, name: str, line: str) -> None:
    where = f"{line!r} in {owner.__name__}.{name}"
    assert line in inspect.getsource(getattr(owner, name)), changed(where)


@pytest.mark.parametrize(
    "name", ["add_channel", "remove_channel", "process_packet", "pause_writing", "send_packet"]
)
def test_an_overridden_method_has_the_same_parameters(name: str) -> None:
    theirs, ours = (inspect.signature(getattr(kind, name)) for kind in (BASE, BoundedConnection))
    assert theirs.parameters.keys() == ours.parameters.keys(), changed(f"{name}{ours}")


def test_sftp_is_started_with_the_same_parameters() -> None:
    found = tuple(inspect.signature(start_sftp_client).parameters)
    assert found == SFTP_PARAMETERS, changed(f"start_sftp_client{SFTP_PARAMETERS}")


def test_no_other_module_looks_inside_asyncssh() -> None:
    inside = [
        f"{path.relative_to(SOURCES)}: {match[0]}"
        for path in SOURCES.rglob("*.py")
        if path != FENCE and (match := INSIDE.search(path.read_text("utf-8")))
    ]
    assert inside == []

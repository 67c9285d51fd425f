# SPDX-License-Identifier: Apache-2.0
"""`waggle agent` with wrong words, and with sockets at which no agent answers."""

from __future__ import annotations

import os
import socket as sockets
from pathlib import Path

import pytest
from tests.cli.agent.ended import Run
from tests.support.agent_peer import Peer, Request

from waggle.infra.guest.protocol import PORT


@pytest.mark.parametrize(
    "words,said",
    [
        (["png"], "There is no method 'png'. Did you mean ping?"),
        (["\x1b[2J"], "There is no method '\\x1b[2J'."),
        (["ping", "x=1"], "ping has no parameter 'x'.\n  ping takes no parameters."),
        (["file_read", "pth=/a"], "has no parameter 'pth'. Did you mean path?"),
        (["file_read", "path"], "'path' has no value.\n  file_read takes path=... [offset=...]"),
        (["file_read"], "file_read needs path.\n  file_read takes path=... [offset=...]"),
        (["file_write", "mode=600"], "file_write needs path and data."),
        (["file_read", "path=a"], "'a' in path is not an absolute path."),
        (["file_write", "path=/a", "data=x", "mode=8"], "mode='8' is not an octal number up to"),
        (["file_write", "path=/a", "data=x", "mode=1777"], "octal number up to 0777."),
        (["exec_command", 'argv=["df"]'], "'df' in argv is not an absolute path."),
        (["file_read", "path=/a", "path=/b"], "path is there twice."),
        (["file_read", "path=/a", "offset=x"], "offset='x' is not JSON, and offset is a number."),
        (["file_read", "path=/a", "offset=-1"], "file_read: offset: must be greater than or equal"),
        (["file_read", "path=/a", 'offset="1"'], "file_read: offset: "),
        (["file_read", "path=/a", "length=300000"], "file_read: length: "),
        (["exec_command", "argv=/bin/x"], """As in: argv='["/usr/bin/uptime"]'"""),
        (["exec_command", "argv=[]"], "exec_command: argv: "),
        (["exec_command", 'argv=["/x"]', "environment=A"], "environment is an object."),
        (["exec_command", 'argv=["/x"]', "wait=no"], "wait is true or false."),
        (
            ["reboot", "manner=now"],
            "reboot: manner: must be 'graceful' or 'forced'.\n  reboot takes [manner",
        ),
        (["set_time", "time=" + "[" * 50_000], "time is a number."),
        (["ping", "--output", "x"], "--output is for file_read."),
        (["ping", "--timeout", "soon"], "--timeout 'soon' is no duration"),
        (["ping", "--timeout", "0"], "--timeout '0' is no duration"),
    ],
)
def test_wrong_words(words: list[str], said: str, socket: Path, waggle: Run) -> None:
    """All are refused before anything is dialed."""
    ended = waggle("agent", "--socket", socket, *words)
    assert (ended.code, ended.out) == (2, b"")
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_the_socket_is_needed(waggle: Run) -> None:
    ended = waggle("agent", "ping")
    assert ended.code == 2
    assert "--socket is needed" in ended.err


def test_there_is_no_socket(socket: Path, waggle: Run) -> None:
    ended = waggle("agent", "--socket", socket, "ping")
    assert ended.code == 1
    assert f"There is no socket {socket}." in ended.err
    assert "virsh dumpxml" in ended.err


def test_nobody_listens(socket: Path, waggle: Run) -> None:
    for make in (_left, Path.touch):
        make(socket)
        ended = waggle("agent", "--socket", socket, "ping")
        assert ended.code == 1
        assert f"Nobody listens at {socket}." in ended.err
        socket.unlink()


def _left(path: Path) -> None:
    with sockets.socket(sockets.AF_UNIX) as one:
        one.bind(str(path))


def test_a_path_that_is_too_long(waggle: Run) -> None:
    ended = waggle("agent", "--socket", "/" + "x" * 200, "ping")
    assert ended.code == 1
    assert "cannot be connected to: AF_UNIX path too long." in ended.err


def silent(_request: Request) -> bytes:
    return b""


def chatter(_request: Request) -> bytes:
    return os.urandom(5_000) + b"\nlogin: \n" * 50


def test_no_agent_answers(peer: Peer, socket: Path, waggle: Run) -> None:
    """As at a port without an agent, and while another program has the socket."""
    peer.reply = silent
    ended = waggle("agent", "--socket", socket, "ping", "--timeout", "1s")
    assert ended.code == 1
    assert f"No agent answers at {socket}: no answer within 1 s." in ended.err
    assert f"the port named {PORT}" in ended.err.replace("\n", " ")
    assert "systemctl status waggle-agent" in ended.err


def test_another_program_hangs_up(socket: Path, peer: Peer, waggle: Run) -> None:
    def reply(_request: Request) -> bytes:
        peer.hang_up()
        return b""

    peer.reply = reply
    ended = waggle("agent", "--socket", socket, "ping")
    assert ended.code == 1
    assert "its channel was closed." in ended.err


def test_another_program_talks(socket: Path, peer: Peer, waggle: Run) -> None:
    """A serial console, which answers what it likes."""
    peer.reply = chatter
    ended = waggle("agent", "--socket", socket, "ping", "--timeout", "1s")
    assert ended.code == 1
    assert "No agent answers" in ended.err

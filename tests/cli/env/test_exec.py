# SPDX-License-Identifier: Apache-2.0
"""`waggle exec` as a process, and the parts of it that need no server."""

from __future__ import annotations

import os
import pty
import socket
import threading
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.cli.beside import Commands
from tests.support.server import client, created, serving

from waggle.cli.env import exec as executing
from waggle.cli.env.exec import How, parse_variables, read_input, report, standard_input
from waggle.cli.env.program import Ended
from waggle.domain.errors import InvalidArgument, TooLarge


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Generator[int]:
    """The other end of standard input."""
    theirs, ours = os.pipe()
    with open(theirs, encoding="utf-8") as text:  # noqa: PTH123 (a descriptor)
        monkeypatch.setattr("sys.stdin", text)
        yield ours


def test_a_pipe_is_read_to_its_end_on_request(stdin: int) -> None:
    words = ("données\0\n".encode(), b"late")
    writer = threading.Thread(
        target=lambda: (*(os.write(stdin, w) for w in words), os.close(stdin))
    )
    writer.start()
    assert standard_input(pipe=True) == "données\0\nlate"
    writer.join()


def test_an_unread_pipe_with_data_is_reported(
    stdin: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert standard_input(pipe=False) == ""
    assert capsys.readouterr().err == ""
    os.write(stdin, b"data")
    assert standard_input(pipe=False) == ""
    assert capsys.readouterr().err == "Standard input is a pipe; -i passes it on.\n"
    os.close(stdin)
    assert standard_input(pipe=True) == "data", "nothing was taken from it"


def test_a_socket_is_treated_as_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, theirs.makefile("r", encoding="utf-8") as text:
        monkeypatch.setattr("sys.stdin", text)
        assert standard_input(pipe=False) == ""
        ours.sendall(b"data")
        ours.shutdown(socket.SHUT_WR)
        assert standard_input(pipe=True) == "data"


@pytest.mark.parametrize("pipe", [False, True])
def test_a_file_is_always_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipe: bool
) -> None:
    file = tmp_path / "input"
    file.write_text("data")
    for path, expected in ((file, "data"), (Path("/dev/null"), "")):
        with path.open(encoding="utf-8") as text:
            monkeypatch.setattr("sys.stdin", text)
            assert standard_input(pipe=pipe) == expected


@pytest.mark.parametrize("pipe", [False, True])
def test_a_terminal_is_never_read(monkeypatch: pytest.MonkeyPatch, pipe: bool) -> None:
    ours, theirs = pty.openpty()
    with open(ours, "wb", buffering=0) as keyboard, open(theirs, encoding="utf-8") as text:  # noqa: PTH123 (descriptors)
        keyboard.write(b"typed\n")
        monkeypatch.setattr("sys.stdin", text)
        assert standard_input(pipe=pipe) == ""


def test_standard_input_that_is_not_utf_8_is_refused(stdin: int) -> None:
    os.write(stdin, b"\xff")
    os.close(stdin)
    with pytest.raises(InvalidArgument, match="not UTF-8") as refused:
        standard_input(pipe=True)
    assert "waggle cp" in refused.value.hint


def test_too_much_standard_input_is_refused(stdin: int) -> None:
    os.write(stdin, b"12345")
    os.close(stdin)
    with pytest.raises(TooLarge, match="over 4 bytes"):
        read_input(4)


def test_standard_input_that_is_too_large_when_escaped_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "input"
    file.write_bytes(b"\1" * (6 << 20))
    with file.open(encoding="utf-8") as text:
        monkeypatch.setattr("sys.stdin", text)
        with pytest.raises(TooLarge, match="control characters"):
            standard_input(pipe=False)


def test_without_standard_input_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert standard_input(pipe=True) == ""
    with pytest.raises(InvalidArgument, match="no standard input") as refused:
        read_input(4)
    assert refused.value.hint == "Name a file."


def test_variables_are_parsed() -> None:
    assert parse_variables(["A=1", "B=x=y", "C=", "A=2"]) == {"A": "2", "B": "x=y", "C": ""}
    for word in ("A", "=1", ""):
        with pytest.raises(InvalidArgument, match="is no variable"):
            parse_variables([word])


def test_options_that_are_not_given_are_not_sent() -> None:
    assert How().arguments() == {"user": "sandbox", "env": {}}
    assert How("root", "/tmp", ["A=1"], 2.5).arguments() == {
        "user": "root",
        "cwd": "/tmp",
        "env": {"A": "1"},
        "timeout_seconds": 2.5,
    }


def test_the_end_of_a_program_becomes_an_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(executing, "say", said.append)
    assert (report(Ended(0)), report(Ended(5)), said) == (0, 5, [])
    assert report(Ended(127, "There is none."), ["ls -l"]) == 127
    assert "sh -c 'ls -l'" in said[-1]
    assert report(Ended(0, lost=7)) == 1
    assert "7 bytes of output are lost" in said[-1]
    assert report(Ended(3, lost=7)) == 3


@pytest.mark.slow
@pytest.mark.anyio
async def test_exec_and_env_new_for_scripts(tmp_path: Path) -> None:
    async with serving() as rig, client(rig) as agent:
        identity = await created(agent)
        waggle = Commands(rig, tmp_path / "d")

        # The fake guest prints the words of a command.
        words = ("-i", "--cwd", "/tmp", "--env", "A=1", "--env", "B=2", identity[:9])
        ended = await waggle("exec", *words, "--", "ls", "-l", "--env", "a  b", stdin="input")
        assert ended == (0, "ls -l --env a  b", "")
        command = rig.host.only.commands[-1]
        assert (command.cwd, command.env, command.stdin) == ("/tmp", {"A": "1", "B": "2"}, b"input")

        assert await waggle("exec", identity, "id") == (0, "id", "")
        await waggle("exec", identity, "id", stdin="input")
        assert rig.host.only.commands[-1].stdin == b""
        code, out, err = await waggle("exec", identity, "ls", "-l")
        assert (code, out) == (2, "")
        assert "Write -- before" in err
        code, out, err = await waggle("exec", "nobody", "--", "ls")
        assert (code, out) == (1, "")
        assert "There is no environment 'nobody'" in err
        assert "waggle env new" in err
        assert (await waggle("exec", identity))[0] == 2

        code, out, err = await waggle("env", "new", "shell", "--name", "second")
        assert (code, out) == (0, f"{list(rig.host.guests)[-1]}\n")
        code, out, err = await waggle("env", "new", "--name", "no!")
        assert (code, out) == (1, "")
        assert "create_environment" not in err

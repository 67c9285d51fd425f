# SPDX-License-Identifier: Apache-2.0
"""`waggle exec` as a process, and the parts of it that need no server."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from pathlib import Path

import anyio
import pytest
from tests.support.server import client, created, serving
from tests.support.waggle_process import command_line

from waggle.cli import executing
from waggle.cli.executing import How, parse_variables, read_input, standard_input, tell
from waggle.cli.following import Ended
from waggle.domain.errors import InvalidArgument, TooLarge


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Generator[int]:
    """The other end of standard input."""
    theirs, ours = os.pipe()
    with open(theirs, encoding="utf-8") as text:  # noqa: PTH123 (a descriptor)
        monkeypatch.setattr("sys.stdin", text)
        yield ours


def test_standard_input(stdin: int) -> None:
    os.write(stdin, "données\0\n".encode())
    os.close(stdin)
    assert standard_input() == "données\0\n"


def test_a_silent_pipe_is_left_alone_unless_something_is_said_to_come(
    stdin: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert standard_input(seconds=0) == ""
    assert "-i waits for it" in capsys.readouterr().err
    writer = threading.Thread(target=lambda: (os.write(stdin, b"late"), os.close(stdin)))
    writer.start()
    assert standard_input(wait=True, seconds=0) == "late"
    writer.join()


def test_standard_input_that_is_no_text(stdin: int) -> None:
    os.write(stdin, b"\xff")
    os.close(stdin)
    with pytest.raises(InvalidArgument, match="not UTF-8") as refused:
        standard_input()
    assert "waggle cp" in refused.value.hint


def test_too_much_standard_input(stdin: int) -> None:
    os.write(stdin, b"12345")
    os.close(stdin)
    with pytest.raises(TooLarge, match="over 4 bytes"):
        read_input(4)


def test_standard_input_that_grows_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "input"
    file.write_bytes(b"\1" * (6 << 20))
    with file.open(encoding="utf-8") as text:
        monkeypatch.setattr("sys.stdin", text)
        with pytest.raises(TooLarge, match="control characters"):
            standard_input()


def test_no_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert standard_input() == ""


def test_variables() -> None:
    assert parse_variables(["A=1", "B=x=y", "C=", "A=2"]) == {"A": "2", "B": "x=y", "C": ""}
    for word in ("A", "=1", ""):
        with pytest.raises(InvalidArgument, match="is no variable"):
            parse_variables([word])


def test_what_is_not_said_is_not_sent() -> None:
    assert How().arguments() == {"user": "sandbox", "env": {}}
    assert How("root", "/tmp", ["A=1"], 2.5).arguments() == {
        "user": "root",
        "cwd": "/tmp",
        "env": {"A": "1"},
        "timeout_seconds": 2.5,
    }


def test_the_end_as_an_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(executing, "say", said.append)
    assert (tell(Ended(0)), tell(Ended(5)), said) == (0, 5, [])
    assert tell(Ended(127, "There is none."), ["ls -l"]) == 127
    assert "sh -c 'ls -l'" in said[-1]
    assert tell(Ended(0, lost=7)) == 1
    assert "7 bytes of output are lost" in said[-1]
    assert tell(Ended(3, lost=7)) == 3


@pytest.mark.slow
@pytest.mark.anyio
async def test_what_a_script_gets(tmp_path: Path) -> None:
    async with serving() as rig, client(rig) as agent:
        identity = await created(agent)
        settings = {
            "image_cache_dir": "/nonexistent",
            "listen_addr": rig.url.removeprefix("http://"),
        }

        async def waggle(*words: str, stdin: str | None = None) -> tuple[int, str, str]:
            ended = await anyio.to_thread.run_sync(
                lambda: command_line(*words, data=tmp_path / "d", settings=settings, stdin=stdin)
            )
            return ended.returncode, ended.stdout, ended.stderr

        # The pretend guest prints the words of a command.
        words = ("--cwd", "/tmp", "--env", "A=1", "--env", "B=2", identity[:9])
        told = await waggle("exec", *words, "--", "ls", "-l", "--env", "a  b", stdin="input")
        assert told == (0, "ls -l --env a  b", "")
        command = rig.host.only.commands[-1]
        assert (command.cwd, command.env, command.stdin) == ("/tmp", {"A": "1", "B": "2"}, b"input")

        assert await waggle("exec", identity, "id") == (0, "id", "")
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

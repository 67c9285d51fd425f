# SPDX-License-Identifier: Apache-2.0
"""The command line: help, wrong usage, and how errors become lines and exit codes."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.waggle_process import command_line, environ

from waggle import __version__
from waggle.cli import main
from waggle.domain.errors import DiskFull, InvalidArgument, SetupIncomplete

COMMANDS = [
    "serve",
    "setup",
    "doctor",
    "demo",
    "agent",
    "shell",
    "cp",
    "exec",
    "run",
    "port",
    "version",
    "image",
    "image build",
    "image pull",
    "image push",
    "image load",
    "image save",
    "image ls",
    "image inspect",
    "image rm",
    "image prune",
    "env",
    "env new",
    "env ls",
    "env rm",
    "vmm",
    "vmm ls",
    "vmm add",
    "vmm rm",
    "vmm check",
]


def nothing(tmp_path: Path) -> dict[str, str]:
    """Return the settings of a host where nothing is set up."""
    return {"image_cache_dir": str(tmp_path / "cache"), "listen_addr": "127.0.0.1:1"}


def waggle(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a host where nothing is set up."""
    return command_line(*words, data=tmp_path / "data", settings=nothing(tmp_path))


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.app([*command.split(), "--help"])
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert f"Usage: waggle {command}".strip() in shown
    assert len(shown.splitlines()) > 3


@pytest.mark.parametrize("command", ["serve", "exec", "run", "env new", "agent", "vmm add"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.app([*command.split(), "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert re.search(rf"Examples?: .*waggle {command}\b", shown)


def test_shell_completion_knows_commands_and_options() -> None:
    script = main.app.generate_completion(shell="bash")  # noqa: S604 (which shell)
    known = ("exec", "run", "new", "--timeout-seconds", "--packages", "--listen", "--fix")
    for words in (*known, "vmm", "--jailer", "cloud-hypervisor"):
        assert re.search(rf"(?<![\w-]){words}(?![\w-])", script), words


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.app(["--help"])
    shown = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"\b{command.split()[0]} ", shown)


@pytest.mark.parametrize(
    "words",
    [
        ("nope",),
        ("image", "nope"),
        ("setup", "--bogus"),
        ("shell",),
        ("shell", "a", "b"),
        ("exec",),
        ("exec", "box"),
        ("exec", "box", "--env", "A", "--", "id"),
        ("run",),
        ("run", "what.rb"),
        ("env", "new", "pyhton"),
        ("env", "new", "--network", "all"),
        ("env", "rm"),
        ("image", "rm"),
        ("image", "build", "nope"),
        ("image", "pull"),
        ("image", "pull", "no registry"),
        ("image", "pull", "short"),
        ("image", "pull", "registry.example/Upper"),
        ("image", "load", "registry.example/a"),
        ("image", "load", "oci:/x", "--name", "Upper"),
        ("image", "save", "a"),
        ("image", "prune", "--max-size", "5"),
        ("image", "prune", "--max-size", "5gb"),
        ("image", "prune", "--older-than", "soon"),
    ],
)
def test_wrong_usage(
    tmp_path: Path,
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in environ(tmp_path / "data", nothing(tmp_path)).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        main.main(words)
    shown = capfd.readouterr()
    assert (ended.value.code, shown.out) == (2, "")
    assert shown.err
    assert "Traceback" not in shown.err


@pytest.mark.parametrize("words", [("nope",), ("image", "pull", "short")])
def test_wrong_usage_of_the_process(tmp_path: Path, words: tuple[str, ...]) -> None:
    """One mistake that the parser finds, and one that waggle finds."""
    ended = waggle(tmp_path, *words)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("word", ["version", "--version"])
def test_the_version_is_printed(tmp_path: Path, word: str) -> None:
    ended = waggle(tmp_path, word)
    assert ended.stdout == f"waggle {__version__}\n"
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", __version__)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_reader_that_leaves_early_causes_no_traceback(tmp_path: Path) -> None:
    shell = f"{sys.executable} -m waggle --help | true; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert "Traceback" not in ended.stderr
    assert ended.returncode in (0, 1)


def fail(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


A = SetupIncomplete("First.", hint="Do this.")
B = InvalidArgument("Second.", hint="")
FULL = f"waggle: The server's disk is full: there is no room in /x/y.\n  {DiskFull.default_hint}\n"


@pytest.mark.parametrize(
    "error,code,text",
    [
        (A, 1, "waggle: First.\n  Do this.\n"),
        (B, 2, "waggle: Second.\n"),
        (ExceptionGroup("", [ExceptionGroup("", [A])]), 1, "waggle: First.\n  Do this.\n"),
        (ExceptionGroup("", [A, B]), 1, "waggle: First.\n  Do this.\nwaggle: Second.\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 1, ""),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 1, FULL),
        (ExceptionGroup("", [OSError(errno.ENOSPC, "as above", "/x/y")]), 1, FULL),
    ],
)
def test_errors_become_lines_and_codes(
    error: BaseException,
    code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(main, "app", fail(error))
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == code
    assert capsys.readouterr() == ("", text)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), ExceptionGroup("", [A, ZeroDivisionError()])]
)
def test_bugs_are_not_hidden(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "app", fail(error))
    with pytest.raises(type(error)):
        main.main()


@pytest.mark.parametrize("code", [0, 1, 7])
def test_a_command_may_choose_its_code(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "app", lambda: code)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == code

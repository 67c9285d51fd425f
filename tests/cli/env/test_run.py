# SPDX-License-Identifier: Apache-2.0
"""`waggle run`: the runtime it chooses, what it copies and runs, and that nothing stays behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from tests.cli.beside import Commands
from tests.support.fakes import FakeGuest, FakeHost
from tests.support.server import Setup, serving
from tests.support.waggle_process import environ

from waggle.cli.advice import advice, of_run
from waggle.cli.env.run import STDIN, Wanted, run, runtime_of
from waggle.domain.diagnosis.reach import refusal
from waggle.domain.errors import InvalidArgument, TooLarge
from waggle.domain.files import MAX_FILE_BYTES
from waggle.domain.network.decisions import Decision
from waggle.domain.programs import HOME
from waggle.domain.programs.runtime import RuntimeName


@pytest.mark.parametrize(
    "file,runtime",
    [
        ("a.py", "python"),
        ("/x.sh/a.PY", "python"),
        ("a.js", "node"),
        ("a.mjs", "node"),
        ("a.cjs", "node"),
        ("./a.b.sh", "shell"),
        ("-", "python"),
    ],
)
def test_the_runtime_follows_from_the_file_name(file: str, runtime: str) -> None:
    assert runtime_of(file) == runtime


@pytest.mark.parametrize("file", ["a", "a.ts", ".py", "a.py/b", "--bogus"])
def test_names_without_a_runtime_are_refused(file: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        runtime_of(file)
    assert "--runtime" in refused.value.hint or "--help" in refused.value.hint


def test_files_that_cannot_be_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="cannot be read: No such file"):
        run(str(tmp_path / "none.py"), (), None, Wanted())
    with pytest.raises(InvalidArgument, match="cannot be read: Is a directory"):
        run(str(tmp_path), (), RuntimeName.PYTHON, Wanted())
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(TooLarge, match="large is over"):
        run(str(large), (), RuntimeName.NODE, Wanted())


def test_missing_standard_input_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `<&-`."""
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(InvalidArgument, match="There is no standard input"):
        run(STDIN, (), None, Wanted())


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_file_is_run_and_nothing_stays_behind(tmp_path: Path) -> None:
    file = tmp_path / "some thing.sh"
    file.write_bytes(b"#!/bin/sh\n\xff\0")
    async with serving() as rig:
        shell = {"runtime_shell_exec_command": "/bin/odd-sh {file}"}
        waggle = Commands(rig, tmp_path / "d", **shell)

        def left() -> list[str]:
            return [environment.id for environment in rig.services.environments.all()]

        # The fake guest prints the words of a command.
        ended = await waggle("run", "-i", str(file), "one", "--", "--two", stdin="input")
        assert ended == (0, f"/bin/odd-sh {HOME}/some thing.sh one --two", "")
        guest = list(rig.host.guests.values())[-1]
        assert guest.files[f"{HOME}/some thing.sh"].data == file.read_bytes()
        assert guest.commands[-1].stdin == b"input"
        assert left() == []

        code, out, err = await waggle("run", "-", "--keep", "--network", "none", stdin="print(1)")
        assert (code, out) == (0, f"python3 {HOME}/program.py")
        (kept,) = left()
        assert f"'waggle env rm {kept}'" in err
        assert rig.host.guests[kept].files[f"{HOME}/program.py"].data == b"print(1)"

        code, _, err = await waggle("run", "-", "--packages", "../x", stdin="print(1)")
        assert code == 1
        assert "install_packages" not in err
        assert left() == [kept]


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_signal_during_the_create_leaves_no_environment(tmp_path: Path) -> None:
    host = FakeHost(hold=anyio.Event())
    assert host.hold is not None
    async with serving(Setup(host=host)) as rig:
        settings = {
            "image_cache_dir": "/nonexistent",
            "listen_addr": rig.url.removeprefix("http://"),
        }
        file = tmp_path / "hello.py"
        file.touch()
        async with await anyio.open_process(
            [sys.executable, "-m", "waggle", "run", str(file)],
            env=environ(tmp_path / "d", settings),
            stdin=subprocess.DEVNULL,
            stdout=None,
            stderr=None,
        ) as process:
            await host.creating.wait()
            process.send_signal(signal.SIGTERM)
            host.hold.set()
            assert await process.wait() == 130
        assert rig.services.environments.all() == []
        assert host.undone == [], "it was created, reported and destroyed"
        assert len(host.guests) == 1


@pytest.mark.slow
@pytest.mark.anyio
async def test_advice_is_for_the_next_run_and_secrets_are_passed_on(tmp_path: Path) -> None:
    refused = Decision("example.org", 443, "no-rule", "no rule allows it")

    def prepare(guest: FakeGuest) -> None:
        environment = guest.environment
        guest.diagnosis = refusal([refused], environment.network, environment.name)

    async with serving(Setup(host=FakeHost(prepare=prepare))) as rig:
        waggle = Commands(rig, tmp_path / "d")
        run = ("run", "-", "--network", "example.net, *.example.net")
        _, _, err = await waggle(*run, stdin="1")
        again = "Run it again with --network 'example.net, *.example.net, example.org'."
        assert again in err
        assert "waggle env" not in err

        _, _, err = await waggle(*run, "--keep", stdin="1")
        assert "`waggle env network shell" in err or "`waggle env network python" in err

        code, _, err = await waggle("run", "-", "--secret", "github", stdin="1")
        assert (code, err.splitlines()[-2:]) == (
            1,
            [
                "waggle: This server has no secret 'github'.",
                "  Leave out --secret; the operator of the server sets WAGGLE_SECRETS_FILE.",
            ],
        )
        code, _, err = await waggle("run", "-", "--network", "none", "--packages", "x", stdin="1")
        assert (code, "Run it again with --network public, or bring" in err) == (1, True)


def test_what_has_no_network_is_run_again_with_one() -> None:
    text = advice(
        "This environment has no network: create one with network 'public' and install x there."
    )
    assert of_run(text, "none") == (
        "This environment has no network: run it again with --network public and --packages x."
    )
    text = "That is for good: create another environment with a network."
    assert of_run(text, "?!") == "That is for good: run it again with another --network."

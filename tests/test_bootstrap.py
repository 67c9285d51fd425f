# SPDX-License-Identifier: Apache-2.0
"""`./task` itself: fast on a ready checkout, and clear about missing requirements."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = (
    "bash",
    "cat",
    "cksum",
    "dirname",
    "env",
    "grep",
    "head",
    "mkdir",
    "mv",
    "rm",
    "tail",
    "tee",
)


class Machine:
    """A checkout in a path with a space, on a machine whose PATH holds only the test's programs."""

    def __init__(self, directory: Path) -> None:
        self.checkout = directory / "my work"
        self.programs = directory / "bin"
        self.log = directory / "log"
        (self.checkout / "requirements").mkdir(parents=True)
        self.programs.mkdir()
        for name in ("task", "pyproject.toml", "requirements/dev.txt"):
            shutil.copy(ROOT / name, self.checkout / name)
        for name in TOOLS:
            found = shutil.which(name)
            assert found, name
            (self.programs / name).symlink_to(found)

    def program(self, name: str, text: str) -> None:
        path = self.programs / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> "{self.log}"\n{text}\n')
        path.chmod(0o755)

    def task(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.checkout / "task", "verify"],
            check=False,
            cwd="/",
            env={"PATH": str(self.programs), "CI": "true"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    def calls(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def fake_python(works: str) -> str:
    """Return a Python 3.11 that makes environments only if the shell command `works` succeeds."""
    return f"""
case "$*" in
    *sys.exit*) exit 0 ;;
    *'import ensurepip'*) {works} ;;
    *version_info*) echo 3.11 ;;
    *fcntl*) exit 0 ;;
    -V) echo Python 3.11.2 ;;
    '-m venv'*) echo 'no space left' >&2; exit 1 ;;
esac"""


def _start(directory: Path) -> tuple[float, str]:
    """Start it and return the seconds and the output."""
    began = time.monotonic()
    done = subprocess.run(
        [ROOT / "task"],
        check=True,
        cwd=directory,
        env={**os.environ, "CI": "true", "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return time.monotonic() - began, done.stdout


def test_a_ready_checkout_lists_its_tasks_within_two_seconds_from_anywhere(tmp_path: Path) -> None:
    """Takes the best of three starts, since a busy machine delays single ones."""
    starts = [_start(tmp_path) for _ in range(3)]
    assert min(seconds for seconds, _ in starts) < 2
    printed = starts[0][1]
    for name in ("build", "run", "demo", "test", "lint", "lint-fix", "fmt", "verify", "bench"):
        assert f"{name}:" in printed


def test_bytecode_is_kept_although_the_machine_disables_it(tmp_path: Path) -> None:
    taskfile = tmp_path / "Taskfile.yaml"
    taskfile.write_text('version: "3"\ntasks: {show: {cmds: [env]}}\n')
    done = subprocess.run(
        [ROOT / "task", "--taskfile", taskfile, "show"],
        check=True,
        env={**os.environ, "CI": "true", "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert "\nVIRTUAL_ENV=" in done.stdout
    assert "\nPYTHONDONTWRITEBYTECODE=" not in done.stdout


def test_the_needed_python_is_named_if_there_is_none(machine: Machine) -> None:
    done = machine.task()
    assert done.returncode == 1
    assert "Python 3.11 or later is needed" in done.stderr


def test_an_old_python_is_refused(machine: Machine) -> None:
    machine.program("python3", 'case "$*" in *sys.exit*) exit 1 ;; esac')
    done = machine.task()
    assert done.returncode == 1
    assert "Python 3.11 or later is needed" in done.stderr


def test_a_newer_python_that_cannot_make_environments_is_passed_over(machine: Machine) -> None:
    machine.program("python3.13", fake_python("exit 1"))
    machine.program("python3.11", fake_python("exit 0"))
    machine.task()
    assert "python3.11 -m venv" in machine.calls()
    assert "python3.13 -m venv" not in machine.calls()


def test_the_missing_module_is_installed_as_root_or_with_sudo(machine: Machine) -> None:
    installed = machine.programs / "installed"
    machine.program("python3", fake_python(f'[[ -e "{installed}" ]] || exit 1'))
    machine.program("sudo", 'if [[ "$1" != -n ]]; then exec "$@"; fi')
    machine.program("apt-get", f'if [[ "$*" == *install* ]]; then : > "{installed}"; fi')
    done = machine.task()
    assert "installing python3-venv by apt" in done.stderr
    assert "apt-get install -y -qq --no-install-recommends python3-venv" in machine.calls()
    assert "python3 -m venv" in machine.calls()


def test_the_missing_module_is_named_if_it_cannot_be_installed(machine: Machine) -> None:
    machine.program("python3", fake_python("exit 1"))
    done = machine.task()
    assert done.returncode == 1
    assert "no ensurepip" in done.stderr
    assert "with your package manager" in done.stderr


def test_a_half_made_environment_is_made_again_and_never_counts_as_ready(machine: Machine) -> None:
    half = machine.checkout / ".venv"
    (half / "bin").mkdir(parents=True)
    (half / "bin" / "task").write_text("#!/bin/bash\necho half made\n")
    (half / "bin" / "task").chmod(0o755)
    machine.program("python3", fake_python("exit 0"))
    done = machine.task()
    assert "half made" not in done.stdout
    assert "making .venv" in done.stderr
    assert done.returncode == 1
    assert not (half / "waggle.stamp").exists()

# SPDX-License-Identifier: Apache-2.0
"""The vault: rotation, reload, commands and files that give values, and what the log never has."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING

import pytest
import structlog

from waggle.domain.access import LOCAL, Owner
from waggle.domain.errors import NotFound, SettingsInvalid
from waggle.domain.secrets import ValueUnavailable
from waggle.infra.access.secret_values import SecretVault, run_command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.anyio
VALUE = "the-first-value"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class File:
    """A secrets file whose only secret a test changes, and the clock of its vault."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = Clock()

    def write(self, *lines: str, mode: int = 0o600) -> None:
        text = ["[secrets.a]", 'variable = "A"', 'hosts = ["a.example.org"]', *lines, ""]
        new = self.path.with_suffix(".new")
        new.write_text("\n".join(text))
        new.chmod(mode)
        new.replace(self.path)
        self.clock.now += 2

    def vault(self, seconds: float = 10.0) -> SecretVault:
        return SecretVault(self.path, monotonic=self.clock, command_seconds=seconds)


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "secrets.toml")


def script(path: Path, code: str) -> str:
    """Return the line for a command that runs Python code."""
    path.with_suffix(".py").write_text(code)
    return f"command = {json.dumps([sys.executable, '-S', '-E', str(path.with_suffix('.py'))])}"


async def revealed(vault: SecretVault) -> str:
    return (await vault.value("a")).reveal().decode()


async def test_a_rotated_value_is_used_at_once(file: File) -> None:
    file.write(f"value = '{VALUE}'")
    vault = file.vault()
    assert [value.reveal() for value in vault.known("a")] == [VALUE.encode()]
    assert await revealed(vault) == VALUE
    file.write("value = 'the-second-value'")
    assert await revealed(vault) == "the-second-value"
    assert [value.reveal() for value in vault.known("a")] == [VALUE.encode(), b"the-second-value"]


@pytest.mark.parametrize(
    "lines, mode, why",
    [
        (["value = 'short'"], 0o600, "Line 1 of the secrets file"),
        (["value = 'the-other-value"], 0o600, "Line 4 of the secrets file is not valid TOML"),
        (["value = 'the-other-value'"], 0o644, "open to others"),
    ],
)
async def test_a_broken_new_file_changes_nothing_and_is_logged(
    file: File, lines: list[str], mode: int, why: str
) -> None:
    file.write(f"value = '{VALUE}'")
    vault = file.vault()
    with structlog.testing.capture_logs() as logs:
        file.write(*lines, mode=mode)
        assert await revealed(vault) == VALUE
        file.clock.now += 2
        assert await revealed(vault) == VALUE
    assert [entry["event"] for entry in logs] == ["secrets_not_reloaded"]
    assert why in logs[0]["why"]
    assert "other-value" not in str(logs)
    file.path.unlink()
    file.clock.now += 2
    assert await revealed(vault) == VALUE


def test_a_broken_file_prevents_the_start(file: File) -> None:
    file.write("value = 'short'")
    with pytest.raises(SettingsInvalid):
        file.vault()


async def test_a_removed_secret_is_gone(file: File) -> None:
    file.write(f"value = '{VALUE}'")
    vault = file.vault()
    file.path.write_text("")
    file.clock.now += 2
    assert vault.secret("a") is None
    with pytest.raises(ValueUnavailable, match="no secret 'a' any more"):
        await vault.value("a")


async def test_a_file_is_read_again_at_once_when_asked(file: File) -> None:
    file.write(f"value = '{VALUE}'")
    vault = file.vault()
    file.path.write_text("")
    assert vault.secret("a") is not None, "the clock stands still"
    assert vault.reread() is None
    assert vault.secret("a") is None
    file.path.write_text("[")
    assert "secrets" in str(vault.reread())


def test_owners_see_only_what_they_may_use(file: File) -> None:
    file.write(f"value = '{VALUE}'", "owners = ['ann']")
    vault = file.vault()
    assert vault.grant(Owner("ann"), "a").variable == "A"
    assert vault.usable_by(LOCAL) == []
    for name in ("a", "b"):
        with pytest.raises(NotFound, match=f"There is no secret '{name}'"):
            vault.grant(LOCAL, name)


async def test_a_file_gives_the_value_that_it_has_now(file: File, tmp_path: Path) -> None:
    value = tmp_path / "value"
    value.write_text(VALUE + "\r\n")
    value.chmod(0o600)
    file.write(f"file = '{value}'")
    vault = file.vault()
    assert await revealed(vault) == VALUE
    value.write_text("the-second-value")
    assert await revealed(vault) == "the-second-value"
    value.chmod(0o604)
    with pytest.raises(ValueUnavailable, match="file of secret 'a' cannot be used"):
        await vault.value("a")


async def test_a_command_runs_once_within_its_lifetime(file: File, tmp_path: Path) -> None:
    count = tmp_path / "count"
    code = f"open({str(count)!r}, 'a').write('x'); print({VALUE!r})"
    file.write(script(tmp_path / "give", code), "lifetime = 60")
    vault = file.vault()
    assert set(await asyncio.gather(*(revealed(vault) for _ in range(5)))) == {VALUE}
    file.clock.now += 59
    assert await revealed(vault) == VALUE
    assert count.read_text() == "x"
    file.clock.now += 2
    assert await revealed(vault) == VALUE
    assert count.read_text() == "xx"


@pytest.mark.parametrize(
    "code, why",
    [
        ("import sys; print('the-value-is-secret'); sys.exit(3)", "failed with exit status 3"),
        ("print('x' * 70000)", "printed over 65536 bytes"),
        ("print('short')", "gave no usable value"),
        ("print('the-value-is', 'secret', sep=chr(10))", "gave no usable value"),
        ("", "gave no usable value"),
    ],
)
async def test_a_command_that_fails_is_reported_without_what_it_printed(
    file: File, tmp_path: Path, code: str, why: str
) -> None:
    file.write(script(tmp_path / "fail", code))
    vault = file.vault()
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):  # the second time it is not run
            with pytest.raises(ValueUnavailable, match=f"the command of secret 'a' {why}"):
                await vault.value("a")
    assert len(logs) == 1
    assert "the-value-is" not in str(logs)


async def test_a_command_that_cannot_start_is_reported(file: File) -> None:
    file.write("command = ['/nonexistent/program']")
    with pytest.raises(ValueUnavailable, match="cannot be started"):
        await file.vault().value("a")


async def test_a_command_has_a_deadline_and_leaves_no_process(
    file: File, tmp_path: Path, gone: Callable[[int], bool]
) -> None:
    pid = tmp_path / "pid"
    code = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(99)"
    file.write(script(tmp_path / "hang", code))
    vault = file.vault(seconds=1.0)
    with pytest.raises(ValueUnavailable, match="took over 1 s"):
        await vault.value("a")
    assert gone(int(pid.read_text()))


async def test_closing_ends_a_command_and_its_callers(file: File, tmp_path: Path) -> None:
    file.write(script(tmp_path / "hang", "import time; time.sleep(99)"))
    vault = file.vault()
    waiting = asyncio.ensure_future(vault.value("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await vault.aclose()
    with pytest.raises(ValueUnavailable, match="stopping"):
        await waiting


async def test_no_shell_sees_a_command() -> None:
    assert await run_command(("echo", "$HOME; ls"), 5.0) == b"$HOME; ls"


@pytest.fixture
def gone() -> Callable[[int], bool]:
    """Return whether a process has ended."""

    def check(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    return check

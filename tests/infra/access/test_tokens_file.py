# SPDX-License-Identifier: Apache-2.0
"""A tokens file that changes, breaks, disappears and comes back while a server reads it."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from waggle.domain.access import TokenRefused
from waggle.domain.errors import SettingsInvalid
from waggle.infra.access.tokens_file import TokensFile, digest, new_token
from waggle.infra.shared.files import atomic_write

pytestmark = pytest.mark.anyio

TOKEN, OTHER = new_token(), new_token()
START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """A wall clock and a monotonic clock in one."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


def write(path: Path, *lines: str, mode: int = 0o600) -> None:
    atomic_write(path, "".join(f"{line}\n" for line in lines).encode(), mode)


def line(owner: str, token: str, more: str = "") -> str:
    return f"{owner} sha256:{digest(token)} {more}"


def opened(path: Path, clock: Clock) -> TokensFile:
    return TokensFile(path, now=clock.now, monotonic=clock.monotonic)


async def owner(tokens: TokensFile, token: str) -> str:
    try:
        return (await tokens.verify(token)).owner
    except TokenRefused as refusal:
        return f"refused: {refusal.reason}"


async def test_a_token_belongs_to_its_owner_until_it_expires(tmp_path: Path) -> None:
    path, clock = tmp_path / "tokens", Clock()
    write(path, line("ann", TOKEN, "expires=2026-01-01T00:01:00Z"), line("bob", OTHER))
    tokens = opened(path, clock)
    assert await owner(tokens, TOKEN) == "ann"
    assert await owner(tokens, OTHER) == "bob"
    for wrong in (digest(TOKEN), TOKEN[:-1], TOKEN + "x", "", "wgl_" * 1000, "\ud800"):
        assert await owner(tokens, wrong) == "refused: unknown"
    clock.seconds = 60
    assert await owner(tokens, TOKEN) == "refused: expired"
    assert await owner(tokens, OTHER) == "bob"


async def test_a_change_is_noticed_within_a_second(tmp_path: Path) -> None:
    path, clock = tmp_path / "tokens", Clock()
    write(path, line("ann", TOKEN))
    tokens = opened(path, clock)
    write(path, line("bob", OTHER))
    clock.seconds = 0.9
    assert await owner(tokens, TOKEN) == "ann"  # the file is not checked again yet
    clock.seconds = 1.0
    assert await owner(tokens, TOKEN) == "refused: unknown"
    assert await owner(tokens, OTHER) == "bob"


@pytest.mark.parametrize("how", ["broken", "open to others", "gone", "no file", "not ascii"])
async def test_a_file_that_breaks_keeps_the_last_good_tokens(tmp_path: Path, how: str) -> None:
    path, clock = tmp_path / "tokens", Clock()
    write(path, line("ann", TOKEN))
    tokens = opened(path, clock)
    path.unlink()
    if how == "broken":
        write(path, line("ann", OTHER), TOKEN)
    elif how == "open to others":
        write(path, line("ann", OTHER), mode=0o644)
    elif how == "no file":
        os.mkfifo(path, 0o600)
    elif how == "not ascii":
        path.touch(0o600)
        path.write_bytes(b"\xff")
    with capture_logs() as logs:
        for second in (1, 2, 3):
            clock.seconds = second
            assert await owner(tokens, TOKEN) == "ann"
            assert await owner(tokens, OTHER) == "refused: unknown"
    assert [entry["event"] for entry in logs] == ["tokens_not_reloaded"]  # once, not every second
    assert TOKEN not in str(logs)
    path.unlink(missing_ok=True)
    write(path, line("ann", OTHER))
    clock.seconds = 4
    assert await owner(tokens, OTHER) == "ann"


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o644, 0o666])
async def test_a_file_open_to_others_is_refused_at_the_start(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "tokens"
    write(path, line("ann", TOKEN), mode=mode)
    with pytest.raises(SettingsInvalid, match="open to others") as caught:
        opened(path, Clock())
    assert "chmod 600" in caught.value.hint


async def test_the_files_group_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    write(path, line("ann", TOKEN), mode=0o640)
    assert await owner(opened(path, Clock()), TOKEN) == "ann"


async def test_an_invalid_tokens_file_is_refused_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    with pytest.raises(SettingsInvalid, match="No such file") as caught:
        opened(path, Clock())
    assert "waggle token new" in caught.value.hint
    write(path, "nonsense")
    with pytest.raises(SettingsInvalid, match="Line 1"):
        opened(path, Clock())
    write(path, *["#" * 1000] * 1100)
    with pytest.raises(SettingsInvalid, match="over 1048576 bytes"):
        opened(path, Clock())
    with pytest.raises(SettingsInvalid, match="Is a directory"):
        opened(tmp_path, Clock())


async def test_the_owners_follow_the_file(tmp_path: Path) -> None:
    path, clock = tmp_path / "tokens", Clock()
    write(path, line("ann", TOKEN), line("metrics", OTHER))
    tokens = opened(path, clock)
    assert tokens.owners == {"ann"}, "metrics has no environments"
    write(path, line("ann", TOKEN), line("bob", OTHER))
    clock.seconds += 2
    assert tokens.owners == {"ann", "bob"}

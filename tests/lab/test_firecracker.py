# SPDX-License-Identifier: Apache-2.0
"""Firecracker's programs out of a wheel: only the pinned ones are kept."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest
from lab.firecracker import BUNDLE, DIGESTS, keep

from waggle.domain.errors import SetupIncomplete

CONTENT = {name: name.encode() * 1000 for name in DIGESTS}
OURS = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()}


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """Return an unpacked wheel with both programs."""
    bundle = tmp_path / "wheel" / BUNDLE
    bundle.mkdir(parents=True)
    for name, data in CONTENT.items():
        (bundle / name).write_bytes(data)
    return tmp_path / "wheel"


def test_both_programs_are_kept_and_may_be_run_but_not_written(wheel: Path, tmp_path: Path) -> None:
    keep(wheel, tmp_path, OURS)
    for name, data in CONTENT.items():
        assert (tmp_path / name).read_bytes() == data
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o555


@pytest.mark.parametrize("name", DIGESTS)
def test_another_program_is_refused_with_both_digests(
    wheel: Path, tmp_path: Path, name: str
) -> None:
    (wheel / BUNDLE / name).write_bytes(b"another")
    with pytest.raises(SetupIncomplete, match=f"{name} has the digest .*{OURS[name]}"):
        keep(wheel, tmp_path, OURS)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", DIGESTS)
def test_a_missing_program_is_named(wheel: Path, tmp_path: Path, name: str) -> None:
    (wheel / BUNDLE / name).unlink()
    with pytest.raises(SetupIncomplete, match=f"no {name}"):
        keep(wheel, tmp_path, OURS)

# SPDX-License-Identifier: Apache-2.0
"""Ranges of /etc/subuid that have the user ids of machines."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from waggle.infra.host import preflight
from waggle.infra.host.preflight import Status, Subject
from waggle.infra.host.subordinate import read_ranges, shared_with

IDS = range(1_900_010_000, 1_900_011_000)


@pytest.mark.parametrize(
    "ranges,line",
    [
        ("", None),
        ("ann:100000:65536", None),
        ("ann:1900000000:10000", None),
        ("ann:1900000000:10001", "ann:1900000000:10001"),
        ("ann:1900011000:65536", None),
        ("ann:1900010999:1", "ann:1900010999:1"),
        ("ann:1900010500:0", None),
        ("# ids\n\nann:x:y\nbob:100000\n1000:1900010500:5\n", "1000:1900010500:5"),
        ("ann:100000:4294967295", "ann:100000:4294967295"),
        ("ann:1:99999999999999999999", None),
        ("a\x1bn:1900010500:5", "a?n:1900010500:5"),
    ],
)
def test_a_range_that_has_ids_of_machines_is_found(ranges: str, line: str | None) -> None:
    assert shared_with(ranges, IDS) == line


def test_a_host_without_the_file_has_no_ranges(tmp_path: Path) -> None:
    assert read_ranges(tmp_path / "none") == read_ranges(tmp_path) == ""
    (tmp_path / "subuid").write_bytes(b"\xff:1:2\n")
    assert read_ranges(tmp_path / "subuid") == "\ufffd:1:2\n"


@pytest.mark.anyio
async def test_the_operator_is_warned_of_users_that_have_ids_of_machines(tmp_path: Path) -> None:
    """Their containers' processes could be taken for machines that were left behind, and killed."""
    subject = Subject(
        tmp_path, (), tmp_path, is_root=True, subuids=lambda: "ann:1900000000:65536\n"
    )
    result = await preflight.users(subject)
    assert result.status is Status.WARN
    assert "ids 1900010000 to 1900010999" in result.detail
    assert "ann:1900000000:65536 (/etc/subuid)" in result.detail
    assert "WAGGLE_VM_UID_BASE" in result.mend
    elsewhere = dataclasses.replace(subject, uid_base=2_000_000_000)
    assert (await preflight.users(elsewhere)).status is Status.OK

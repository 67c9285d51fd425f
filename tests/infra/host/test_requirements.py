# SPDX-License-Identifier: Apache-2.0
"""Which system packages count as missing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from waggle.infra.host.requirements import (
    PACKAGES,
    SystemPackage,
    Use,
    building,
    find_program,
    missing,
)


def names(uses: Iterable[Use], *, absent: set[str]) -> list[str]:
    found = missing(
        uses,
        has_program=lambda name: name not in absent,
        has_file=lambda path: path.name not in absent,
    )
    return [package.name for package in found]


def test_nothing_is_missing_when_everything_is_present() -> None:
    assert names({"serve", "build", "build as user", "test"}, absent=set()) == []


def test_only_packages_that_the_use_needs_are_missing() -> None:
    absent = {"qemu-system-x86_64", "mmdebstrap", "skopeo"}
    assert names({"serve"}, absent=absent) == ["QEMU"]
    assert names({"build"}, absent=absent) == ["mmdebstrap"]
    assert names({"serve", "build", "test"}, absent=absent) == ["QEMU", "mmdebstrap", "skopeo"]


def test_one_of_two_programs_is_not_enough() -> None:
    assert names(building(is_root=False), absent={"newgidmap"}) == ["uidmap"]


def test_root_needs_id_maps_only_for_the_tests() -> None:
    assert names(building(is_root=True), absent={"newuidmap"}) == []
    assert names({"test"}, absent={"newuidmap"}) == ["uidmap"]


def test_files_count_like_programs() -> None:
    assert names({"build"}, absent={"debian-archive-keyring.gpg"}) == ["Debian archive keys"]


def test_administrators_programs_are_found_whatever_path_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_program("ldconfig") is not None
    assert find_program("no-such-program") is None


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_every_package_can_be_checked_and_explained(package: SystemPackage) -> None:
    assert package.programs or package.files
    assert package.uses
    assert package.why[0].islower()
    assert not package.why.endswith(".")

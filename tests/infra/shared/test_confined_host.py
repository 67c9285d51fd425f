# SPDX-License-Identifier: Apache-2.0
"""What this host allows to others than root: user namespaces for building, and /dev/kvm."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from waggle.infra.shared.confined import kvm_group, may_be_shared, refusal

USER = 1000
APPARMOR = "kernel/apparmor_restrict_unprivileged_userns"


def set_to(root: Path, name: str, value: str) -> None:
    file = root / "proc/sys" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(value + "\n")


def profile(root: Path, name: str) -> None:
    file = root / "etc/apparmor.d" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


def test_a_host_without_restrictions_refuses_nothing(tmp_path: Path) -> None:
    assert refusal(USER, tmp_path) == ""


@pytest.mark.parametrize("name", ["user/max_user_namespaces", "kernel/unprivileged_userns_clone"])
def test_disabled_user_namespaces_are_reported(tmp_path: Path, name: str) -> None:
    set_to(tmp_path, name, "1")
    assert refusal(USER, tmp_path) == ""
    set_to(tmp_path, name, "0")
    assert refusal(USER, tmp_path) == f"{name.replace('/', '.')} is 0"


def test_ubuntus_apparmor_needs_a_profile(tmp_path: Path) -> None:
    set_to(tmp_path, APPARMOR, "1")
    assert "no profile for mmdebstrap" in refusal(USER, tmp_path)
    profile(tmp_path, "mmdebstrap")
    assert refusal(USER, tmp_path) == ""
    profile(tmp_path, "disable/mmdebstrap")
    assert "no profile for mmdebstrap" in refusal(USER, tmp_path)
    set_to(tmp_path, APPARMOR, "0")
    assert refusal(USER, tmp_path) == ""


def test_root_needs_no_user_namespace(tmp_path: Path) -> None:
    set_to(tmp_path, "user/max_user_namespaces", "0")
    assert refusal(0, tmp_path) == ""


@pytest.mark.parametrize(
    "mode,expected",
    [
        (0o600, False),
        (0o660, True),
        (0o666, True),
        (0o606, True),
        (0o640, False),
        (0o644, False),
        (0o620, False),
        (0o642, False),
        (0o000, False),
        (0o020660, True),
        (0o020600, False),
    ],
)
def test_sharing_needs_read_and_write_for_the_same_class(mode: int, expected: bool) -> None:
    assert may_be_shared(mode) is expected


def test_only_a_group_that_may_read_and_write_is_of_use(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    assert kvm_group(device) == -1
    device.touch()
    for mode, expected in ((0o660, os.getgid()), (0o640, -1), (0o606, -1), (0o600, -1)):
        device.chmod(mode)
        assert kvm_group(device) == expected

# SPDX-License-Identifier: Apache-2.0
"""Doctor's checks of the layers around a machine's process: one line, and one next step."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from waggle.infra.host import preflight
from waggle.infra.host.preflight import CheckResult, Status, Subject
from waggle.infra.shared.cgroups import Facts

pytestmark = pytest.mark.anyio
ALL = frozenset({"memory", "pids", "cpu", "io"})


def subject(
    *, is_root: bool = True, groups: Facts | None = None, disk: str | None = "253:0"
) -> Subject:
    facts = groups or Facts()
    nothing = Path("/nonexistent")
    return Subject(
        *(nothing, (nothing,), nothing), groups=lambda: facts, disk=lambda _: disk, is_root=is_root
    )


def check_line(result: CheckResult) -> None:
    assert "\n" not in result.detail + result.mend
    assert bool(result.mend) == (result.status is Status.WARN)


async def test_without_root_missing_users_are_reported() -> None:
    result = await preflight.users(subject(is_root=False))
    assert result.status is Status.WARN
    assert "Run the server as root" in result.mend
    check_line(result)
    assert (await preflight.users(subject())).status is Status.OK


@pytest.mark.parametrize("is_root", [True, False])
async def test_namespaces_are_tried_as_the_server_would(is_root: bool) -> None:
    if is_root and os.geteuid() != 0:
        pytest.skip("NOT TESTED: this is not root")
    result = await preflight.namespaces(subject(is_root=is_root))
    user = [] if is_root else ["--user", "--map-root-user"]
    spaces = ["unshare", "--mount", "--net", "--ipc", "--uts", *user, "true"]
    allowed = subprocess.run(spaces, check=False, capture_output=True).returncode == 0
    if not allowed:
        assert result.status is Status.WARN
    if result.status is Status.WARN:
        assert "root" in result.mend or "SYS_ADMIN" in result.mend
    check_line(result)


async def test_a_kernel_that_filters_is_reported() -> None:
    result = await preflight.calls(subject())
    check_line(result)


@pytest.mark.parametrize(
    "facts, says",
    [
        (Facts(), "no cgroup v2 hierarchy is mounted"),
        (Facts("/sys/fs/cgroup/unified"), "has no memory and no pids"),
        (Facts("/c", "/own", ALL, ALL), "may not make control groups in /c/own"),
    ],
)
async def test_missing_groups_are_reported_with_the_next_step(facts: Facts, says: str) -> None:
    result = await preflight.groups(subject(groups=facts))
    assert result.status is Status.WARN
    assert says in result.detail
    check_line(result)


async def test_groups_that_can_be_made_are_named() -> None:
    facts = Facts("/c", "/own", ALL, ALL, is_alone=True, may_use_own=True)
    result = await preflight.groups(subject(groups=facts))
    assert (result.status, result.detail) == (Status.OK, "each machine has limits below /c/own")


async def test_missing_controllers_are_named() -> None:
    """A user's services get memory, pids and cpu from systemd, but not io."""
    had = ALL - {"io"}
    facts = Facts("/c", "/own", ALL, had, is_alone=True, may_use_own=True)
    result = await preflight.groups(subject(groups=facts))
    assert result.status is Status.WARN
    assert result.detail == "each machine has limits below /c/own, but none of io"
    assert "Delegate=yes" in result.mend
    check_line(result)


async def test_a_disk_whose_rate_cannot_be_limited_is_named() -> None:
    facts = Facts("/c", "/own", ALL, ALL, is_alone=True, may_use_own=True)
    result = await preflight.groups(subject(groups=facts, disk=None))
    assert result.status is Status.WARN
    assert result.detail.endswith("none of the disk's rate: /nonexistent is not on a block device")
    assert "ext4 or XFS" in result.mend
    check_line(result)

# SPDX-License-Identifier: Apache-2.0
"""The place of the machines' control groups, and the limits written there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.infra.shared.cgroups import (
    MIB,
    REQUIRED,
    Facts,
    Limits,
    Nowhere,
    Place,
    limit_files,
    mount_of,
    own_of,
    place,
)

ALL = frozenset({"cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"})
MOUNT = "/sys/fs/cgroup"
NAMES = st.frozensets(st.sampled_from(sorted(ALL)))
SERVICE = "/system.slice/waggle.service"


def facts(
    own: str = SERVICE,
    *,
    mount: str = MOUNT,
    controllers: frozenset[str] = ALL,
    own_controllers: frozenset[str] = ALL,
    alone: bool = True,
    own_writable: bool = True,
    top_writable: bool = True,
) -> Facts:
    return Facts(mount, own, controllers, own_controllers, alone, own_writable, top_writable)


def test_a_service_with_delegation_stays_in_its_own_group() -> None:
    expected = Place(f"{MOUNT}{SERVICE}", server_moves=True)
    assert place(facts()) == place(facts(top_writable=False)) == expected


@pytest.mark.parametrize(
    "seen",
    [
        facts("/"),
        facts("/user.slice/session-3.scope", alone=False),
        facts(own_controllers=frozenset({"pids"})),
    ],
    ids=["at the top", "in a session of others", "without delegated controllers"],
)
def test_root_uses_the_top_when_its_own_group_is_unusable(seen: Facts) -> None:
    assert place(seen) == Place(MOUNT, server_moves=False)


@pytest.mark.parametrize(
    "seen, problem, mend",
    [
        (Facts(), "no cgroup v2 hierarchy is mounted", "mount -t cgroup2"),
        (facts(controllers=frozenset()), "has no memory and no pids", "cgroup_no_v1"),
        (facts(controllers=ALL - {"pids"}), "has no pids", "cgroup_no_v1"),
        (facts(own_writable=False, top_writable=False), "may not make", "Delegate=yes"),
        (facts(alone=False, top_writable=False), "may not make", "Run the server as root"),
    ],
)
def test_without_a_place_the_next_step_is_given(seen: Facts, problem: str, mend: str) -> None:
    found = place(seen)
    assert isinstance(found, Nowhere)
    assert problem in found.problem
    assert mend in found.mend
    assert "\n" not in found.problem + found.mend


@given(
    seen=st.builds(
        Facts,
        mount=st.sampled_from(["", MOUNT]),
        own=st.sampled_from(["/", SERVICE]),
        controllers=NAMES,
        own_controllers=NAMES,
        is_alone=st.booleans(),
        may_use_own=st.booleans(),
        may_use_top=st.booleans(),
    )
)
def test_a_place_is_always_usable_and_has_the_required_controllers(seen: Facts) -> None:
    found = place(seen)
    if isinstance(found, Nowhere):
        assert found.problem
        assert found.mend
        return
    assert seen.mount
    assert seen.controllers >= REQUIRED
    if found.server_moves:
        assert seen.may_use_own
        assert seen.is_alone
        assert seen.own_controllers >= REQUIRED
        assert found.base == seen.mount + seen.own != seen.mount + "/"
    else:
        assert seen.may_use_top
        assert found.base == seen.mount


@given(
    memory=st.integers(64, 1 << 20),
    cpus=st.integers(1, 64),
    io=st.integers(0, 1 << 20),
    device=st.none() | st.just("253:0"),
)
def test_every_machine_has_limits_of_memory_processors_and_processes(
    memory: int, cpus: int, io: int, device: str | None
) -> None:
    files = limit_files(Limits(memory, cpus, io), device)
    assert memory * MIB < int(files["memory.max"]) <= (memory + 512) * MIB
    assert files["memory.oom.group"] == "1"
    assert int(files["pids.max"]) > 64 + cpus
    quota, period = map(int, files["cpu.max"].split())
    assert cpus < quota / period <= cpus + 1
    assert ("io.max" in files) is (device is not None and io > 0)
    if "io.max" in files:
        name, *rates = files["io.max"].split()
        assert name == device
        figures = dict(rate.split("=") for rate in rates)
        assert figures.keys() == {"rbps", "wbps", "riops", "wiops"}
        assert int(figures["rbps"]) == int(figures["wbps"]) == io * MIB


MOUNTINFO = """\
23 29 0:22 / /proc rw,nosuid shared:12 - proc proc rw
33 25 0:29 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
34 25 0:30 / /sys/fs/cgroup/my\\040own rw,relatime - cgroup2 cgroup2 rw,nsdelegate
35 25 0:31 / /elsewhere rw - cgroup2 cgroup2 rw
"""


def test_the_first_cgroup_v2_mount_is_found() -> None:
    assert mount_of(MOUNTINFO) == "/sys/fs/cgroup/my own"
    assert mount_of("\n".join(MOUNTINFO.splitlines()[:2])) == ""


@given(st.text())
def test_any_kernel_text_is_parsed(text: str) -> None:
    assert isinstance(mount_of(text), str)
    assert own_of(text).startswith("/") or own_of(text)


def test_the_own_group_is_that_of_cgroup_v2() -> None:
    assert own_of(f"4:memory:/a\n0::{SERVICE}\n1:cpu:/b\n") == SERVICE
    assert own_of("4:memory:/a\n") == own_of("0::\n") == "/"

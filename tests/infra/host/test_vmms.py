# SPDX-License-Identifier: Apache-2.0
"""The lines about VMM programs: what each can, how it is confined, and what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from waggle.infra.host.preflight import CheckResult, Status, ok
from waggle.infra.host.vmms import Confinement, nesting, programs, refusal, with_programs
from waggle.infra.vmm.kept import Binary, Installed
from waggle.infra.vmm.version import TESTED, Version, Vmm

FC, CH = Vmm.FIRECRACKER, Vmm.CLOUD_HYPERVISOR


def installed(
    vmm: Vmm,
    version: Version,
    *,
    jailer: bool = False,
    problem: str = "",
) -> Installed:
    path = Path("/store", vmm.value)
    its_jailer = path.with_name("jailer") if jailer else None
    binary = Binary(vmm, version, "x86_64", path, "0" * 64, its_jailer)
    return Installed(vmm, version, "x86_64", binary, problem)


def line(one: Installed, *, is_root: bool = True, landlock: int = 3) -> CheckResult:
    (result,) = programs([one], Confinement(is_root=is_root, landlock=landlock), arch="x86_64")
    return result


def test_nothing_installed_is_one_line_and_no_problem() -> None:
    (result,) = programs([], Confinement(is_root=True, landlock=3))
    assert result.status is Status.OK
    assert result.detail.startswith("not installed")
    assert "waggle vmm add PATH" in result.detail


def test_a_jailer_and_the_difference_without_it() -> None:
    jailed = line(installed(FC, Version(1, 12, 1), jailer=True))
    assert (jailed.name, jailed.status) == ("firecracker 1.12.1", Status.OK)
    assert "in its jailer: its own user, files, network and processes" in jailed.detail
    bare = line(installed(FC, Version(1, 12, 1)))
    assert "confined by waggle: its own user, files, network and processes" in bare.detail
    assert "--jailer PATH" in bare.detail
    user = line(installed(FC, Version(1, 12, 1), jailer=True), is_root=False)
    assert (
        "confined by waggle: its own files, network and processes, Landlock 3, but the user"
        in user.detail
    )


@pytest.mark.parametrize("is_root", [True, False])
def test_cloud_hypervisor_has_no_jailer(is_root: bool) -> None:
    detail = line(installed(CH, Version(48)), is_root=is_root).detail
    assert "can freeze machines; starts confined by waggle: its own" in detail
    assert ("own user" in detail) is is_root
    assert detail.endswith("; used only where WAGGLE_HYPERVISOR names it")
    assert "jailer" not in detail


@pytest.mark.parametrize(
    "module, version, is_offered",
    [
        *(("kvm_amd", Version(51, 2), True), ("kvm_amd", Version(52), False)),
        *(("kvm_intel", Version(49), True), ("kvm_intel", Version(50), False)),
        ("", Version(48), False),
    ],
)
def test_guests_that_can_use_the_hosts_kvm_are_a_warning(
    module: str, version: Version, is_offered: bool
) -> None:
    confinement = Confinement(is_root=True, landlock=3, nesting=module)
    (result,) = programs([installed(CH, version)], confinement, arch="x86_64")
    assert (result.status is Status.WARN) is is_offered
    assert ("can use the host's KVM" in result.detail) is is_offered
    if is_offered:
        assert f"load {module} with nested=0" in result.mend


@pytest.mark.parametrize(
    "value, offers", [("Y\n", True), ("1\n", True), ("N\n", False), (None, False)]
)
def test_the_module_that_offers_machines_is_read(
    tmp_path: Path, value: str | None, offers: bool
) -> None:
    if value is not None:
        place = tmp_path / "kvm_amd/parameters"
        place.mkdir(parents=True)
        (place / "nested").write_text(value)
    assert nesting(tmp_path) == ("kvm_amd" if offers else "")


@pytest.mark.parametrize("is_root", [True, False])
def test_landlock_is_named_where_it_confines(is_root: bool) -> None:
    machine = installed(CH, Version(53))
    assert ", Landlock 3" in line(machine, is_root=is_root).detail
    without = line(machine, is_root=is_root, landlock=0)
    assert ", no Landlock, which this kernel does not offer" in without.detail
    jailed = line(installed(FC, Version(1, 12), jailer=True), is_root=is_root)
    assert ("Landlock" in jailed.detail) is not is_root


def test_older_versions_are_kept_for_what_they_froze() -> None:
    all_three = [
        installed(FC, Version(1, 10)),
        installed(FC, Version(1, 12)),
        installed(FC, Version(1, 9), problem="it was replaced"),
    ]
    old, newest, broken = programs(all_three, Confinement(is_root=True, landlock=3), arch="x86_64")
    assert old.detail.startswith("kept for what it froze, new machines use 1.12.0; ")
    assert newest.detail.startswith("can freeze machines; ")
    assert broken.status is Status.WARN
    assert broken.detail == "it was replaced"
    assert "waggle vmm add PATH" in broken.mend
    assert "waggle vmm rm firecracker 1.9.0" in broken.mend


def test_an_older_version_is_not_said_to_replace_a_broken_one() -> None:
    both = [
        installed(FC, Version(1, 12)),
        installed(FC, Version(1, 13), problem="it was replaced"),
    ]
    old, broken = programs(both, Confinement(is_root=True, landlock=0), arch="x86_64")
    assert old.detail.startswith("kept for what it froze, new machines use 1.13.0; ")
    assert broken.detail == "it was replaced; new machines would use it"


@pytest.mark.anyio
@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root is sure to have namespaces")
async def test_a_kernel_that_gives_no_process_namespace_is_reported() -> None:
    assert await refusal(is_root=True) == ""
    words = "unshare failed: Operation not permitted"
    (result,) = programs(
        [installed(FC, Version(1, 12))], Confinement(is_root=True, landlock=3, refused=words)
    )
    assert result.status is Status.WARN
    assert result.detail.startswith("its machines cannot start")
    assert words in result.detail
    assert "RestrictNamespaces" in result.mend


def test_the_lines_follow_libkrun() -> None:
    results = [ok(name, "fine") for name in ("qemu", "libkrun", "hypervisor")]
    more = with_programs(
        results, [installed(FC, Version(1, 12))], Confinement(is_root=True, landlock=3)
    )
    names = [result.name for result in more]
    assert names == ["qemu", "libkrun", "firecracker 1.12.0", "hypervisor"]
    assert with_programs([], [], Confinement(is_root=True, landlock=3))[0].name == "VMM programs"


@pytest.mark.parametrize(
    "vmm,tested,newer",
    [
        (FC, [Version(1, 10), Version(1, 12, 1), Version(1, 12, 9)], [Version(1, 13), Version(2)]),
        (CH, [Version(48), Version(53), Version(53, 0, 4)], [Version(53, 1), Version(54)]),
    ],
)
def test_a_version_that_is_newer_than_what_was_tested_is_used_with_a_warning(
    vmm: Vmm, tested: list[Version], newer: list[Version]
) -> None:
    """There was no upper bound, and nothing said so."""
    for version in tested:
        assert line(installed(vmm, version)).status is Status.OK
    for version in newer:
        result = line(installed(vmm, version))
        assert result.status is Status.WARN
        assert f"newer than what was tested ({TESTED[vmm]}); can freeze" in result.detail
        assert "waggle vmm rm" in result.mend

# SPDX-License-Identifier: Apache-2.0
"""Which frozen machines fit which program, and boots that cannot succeed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.infra.vmm.pretended import MIB, spec_in
from tests.support.leaks import Leaks

from waggle.domain.errors import BootFailed, FrozenMachineUnusable, PortTaken, SetupIncomplete
from waggle.domain.machine import Resources
from waggle.infra.firecracker.hypervisor import FirecrackerHypervisor
from waggle.infra.guest.forwarder import claim
from waggle.infra.guest.frozen import FrozenFiles
from waggle.infra.vmm.binaries import Binary
from waggle.infra.vmm.process import GuardedProcess
from waggle.infra.vmm.standby import Standby
from waggle.infra.vmm.version import Version, Vmm

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
UID = 1_900_000_782
NEW, OLD = "b" * 64, "a" * 64


def binary(digest: str = NEW, version: str = "1.13.1", path: str = "/bin/busybox") -> Binary:
    return Binary(Vmm.FIRECRACKER, Version.parse(version), "x86_64", Path(path), digest)


def found(vmm: Vmm, digest: str, version: str) -> Binary:
    """Find the old program and the new one, as the store does."""
    if digest == OLD:
        return binary(OLD, "1.12.1")
    if digest == NEW:
        return binary()
    raise SetupIncomplete(f"It needs Firecracker {version}, which is not here.", hint="Add it.")


@pytest.fixture
def machines() -> FirecrackerHypervisor:
    return FirecrackerHypervisor(lambda _vmm: binary(), found, jailed=False)


@pytest.fixture
def place() -> Iterator[Path]:
    """A place that another user can reach, too."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def test_a_machine_fits_the_program_that_made_it(machines: FirecrackerHypervisor) -> None:
    ours = machines.fingerprint()
    assert ours["vmm"] == NEW
    assert ours["version"] == "1.13.1"
    assert machines.lock(ours) is None


def test_an_older_program_that_was_kept_resumes_what_it_froze(
    machines: FirecrackerHypervisor, tmp_path: Path
) -> None:
    theirs = {**machines.fingerprint(), "vmm": OLD, "version": "1.12.1"}
    assert machines.lock(theirs) is None
    with contextlib.closing(FrozenFiles("x", mib=1)) as frozen:
        frozen.save(tmp_path)
    with contextlib.closing(machines.load(tmp_path, theirs)) as loaded:
        assert machines.fingerprint(loaded) == theirs


def test_what_an_older_program_froze_needs_no_newer_one(
    machines: FirecrackerHypervisor, tmp_path: Path
) -> None:
    """The newest one may be damaged, and boots nothing then."""

    def newest(vmm: Vmm) -> Binary:
        raise SetupIncomplete("Firecracker 1.13.1 cannot be used: it was replaced.")

    theirs = {**machines.fingerprint(), "vmm": OLD, "version": "1.12.1"}
    without = FirecrackerHypervisor(newest, found, jailed=False)
    assert without.lock(theirs) is None
    assert without.lock({**theirs, "cpu": "other"}) == "processor"
    with contextlib.closing(FrozenFiles("x", mib=1)) as frozen:
        frozen.save(tmp_path)
    with contextlib.closing(without.load(tmp_path, theirs)) as loaded:
        assert without.fingerprint(loaded) == theirs


@pytest.mark.parametrize("said", [{}, {"version": ""}, {"version": "9.9.9"}])
def test_the_version_of_an_imported_state_is_that_of_its_program(
    machines: FirecrackerHypervisor, tmp_path: Path, said: dict[str, str]
) -> None:
    ours = {**machines.fingerprint(), "vmm": OLD, "version": "1.12.1"}
    theirs = {**{name: ours[name] for name in ours if name != "version"}, **said}
    assert machines.lock(theirs) is None
    with contextlib.closing(FrozenFiles("x", mib=1)) as frozen:
        frozen.save(tmp_path)
    with contextlib.closing(machines.load(tmp_path, theirs)) as loaded:
        assert machines.fingerprint(loaded) == ours


async def test_the_newest_program_is_looked_for_again_for_every_machine(place: Path) -> None:
    """One that was added since the server started is used; one that is gone since is not."""
    here = [binary(OLD, "1.12.1", "/no/such/program")]

    def newest(vmm: Vmm) -> Binary:
        if not here:
            raise SetupIncomplete(f"There is no {vmm}.", hint="Add it.")
        return here[-1]

    machines = FirecrackerHypervisor(newest, found, jailed=False)
    spec = replace(spec_in(place), uid=UID if os.geteuid() == 0 else None)
    with pytest.raises(BootFailed, match="/no/such/program"):
        await machines.boot(spec)
    before = machines.fingerprint()
    here.append(binary())
    assert (before["vmm"], machines.fingerprint()["vmm"]) == (OLD, NEW)
    assert machines.lock(before) is None, "what the old one froze still fits"
    with pytest.raises(BootFailed, match=r"applet not found|Firecracker ended with status"):
        await machines.boot(spec)
    here.clear()
    with pytest.raises(SetupIncomplete, match="There is no firecracker"):
        await machines.boot(spec)


def test_the_version_to_add_is_named(machines: FirecrackerHypervisor) -> None:
    theirs = {**machines.fingerprint(), "vmm": "c" * 64, "version": "1.99.0"}
    assert machines.lock(theirs) == (
        "Firecracker. It needs Firecracker 1.99.0, which is not here. Add it"
    )


@pytest.mark.parametrize("name, part", [("cpu", "processor"), ("machine", "kind of machine")])
def test_another_part_is_named(machines: FirecrackerHypervisor, name: str, part: str) -> None:
    assert machines.lock({**machines.fingerprint(), name: "other"}) == part
    without = {key: value for key, value in machines.fingerprint().items() if key != name}
    assert machines.lock(without) == part


async def test_memory_of_another_size_is_refused(
    machines: FirecrackerHypervisor, tmp_path: Path
) -> None:
    with (
        contextlib.closing(FrozenFiles(f"1.13.1 {NEW}", mib=MIB + 1)) as frozen,
        pytest.raises(FrozenMachineUnusable, match="another size"),
    ):
        await machines.resume(spec_in(tmp_path), frozen)


async def test_a_program_that_is_gone_is_named(
    machines: FirecrackerHypervisor, tmp_path: Path
) -> None:
    with (
        contextlib.closing(FrozenFiles(f"1.99.0 {'c' * 64}", mib=MIB)) as frozen,
        pytest.raises(SetupIncomplete, match=r"needs Firecracker 1\.99\.0"),
    ):
        await machines.resume(spec_in(tmp_path), frozen)


async def test_a_program_that_is_no_vmm_fails_the_boot_and_leaves_nothing(
    machines: FirecrackerHypervisor, place: Path
) -> None:
    leaks = Leaks()
    spec = replace(spec_in(place), uid=UID if os.geteuid() == 0 else None)
    with pytest.raises(BootFailed, match=r"applet not found|Firecracker ended with status"):
        await machines.boot(spec)
    await leaks.settle()
    claim(spec.ssh_port).close()


async def test_a_machine_that_is_awaited_takes_the_guard_that_waits(place: Path) -> None:
    leaks = Leaks()
    waiting: list[int] = []
    limited: list[int] = []

    def start() -> GuardedProcess:
        guard = GuardedProcess.waiting()
        waiting.append(guard.identity.pid)
        return guard

    def enclose(_resources: Resources, pid: int) -> Callable[[], None]:
        limited.append(pid)
        return lambda: None

    machines = FirecrackerHypervisor(lambda _vmm: binary(), found, jailed=False, enclose=enclose)
    machines.standby = Standby(start)
    spec = replace(spec_in(place), uid=UID if os.geteuid() == 0 else None)
    async with machines.standby.kept():
        for number, background in enumerate((True, False)):
            with pytest.raises(BootFailed):
                await machines.boot(replace(spec, background=background))
            assert machines.standby.is_there is background
            assert (limited[number] in waiting) is not background
    await leaks.settle()


async def test_a_taken_port_is_reported_as_such(
    machines: FirecrackerHypervisor, place: Path
) -> None:
    spec = spec_in(place)
    with claim(spec.ssh_port), pytest.raises(PortTaken):
        await machines.boot(spec)


async def test_a_missing_disk_is_named(machines: FirecrackerHypervisor, place: Path) -> None:
    spec = spec_in(place)
    spec.disks.image.unlink()
    with pytest.raises(BootFailed, match="image cannot be opened: No such file"):
        await machines.boot(spec)
    assert not [path for path in place.iterdir() if path.name.endswith(".run")]

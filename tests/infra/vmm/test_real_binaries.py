# SPDX-License-Identifier: Apache-2.0
"""A real Firecracker with its jailer, and a real Cloud Hypervisor, added as users would do.

No registry has the latter: the test runs where WAGGLE_TEST_CLOUD_HYPERVISOR names one.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest
from tests.support.firecracker import FIRECRACKER, JAILER, VERSION, programs
from tests.support.leaks import Leaks

from waggle.domain.errors import InvalidArgument, SetupIncomplete
from waggle.infra.vmm import kept
from waggle.infra.vmm.binaries import BinaryStore
from waggle.infra.vmm.candidate import again
from waggle.infra.vmm.client import Dial
from waggle.infra.vmm.version import OLDEST, Version, Vmm

pytestmark = pytest.mark.anyio
net = pytest.mark.net
FC = Vmm.FIRECRACKER
CLOUD_HYPERVISOR = "WAGGLE_TEST_CLOUD_HYPERVISOR"


@pytest.fixture(scope="module")
def real() -> Path:
    return programs()


@pytest.fixture
def store(tmp_path: Path) -> BinaryStore:
    return BinaryStore(tmp_path / "data" / "system" / "binaries")


@net
async def test_its_version_comes_from_the_program_and_its_api(
    store: BinaryStore, real: Path
) -> None:
    leaks = Leaks()
    binary = (await store.add(real)).binary
    assert (binary.version, binary.unasked) == (Version.parse(VERSION), "")
    assert binary == store.newest(FC) == store.find(FC, binary.digest, VERSION)
    assert binary.digest == kept.digest_of(real / FIRECRACKER)
    assert binary.jailer_digest == kept.digest_of(real / JAILER)
    await leaks.settle()


@net
async def test_a_release_archive(store: BinaryStore, real: Path, tmp_path: Path) -> None:
    archive = tmp_path / f"firecracker-v{VERSION}-x86_64.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in (FIRECRACKER, JAILER):
            inside = f"release-v{VERSION}-x86_64/{name}-v{VERSION}-x86_64"
            tar.add(real / name, inside)
    binary = (await store.add(archive)).binary
    assert binary.digest == kept.digest_of(real / FIRECRACKER)
    assert binary.source == f"firecracker-v{VERSION}-x86_64"
    assert binary.jailer is not None


@net
async def test_an_api_with_another_version_is_refused(store: BinaryStore, real: Path) -> None:
    async def ask(dial: Dial, _vmm: Vmm, _version: Version) -> str:
        (await dial()).close()
        return "1.11.0"

    with pytest.raises(InvalidArgument, match=r"prints version 1\.12\.1, and its API says 1\.11"):
        await store.add(real, ask=ask)


@net
async def test_a_program_replaced_between_start_and_restore_is_refused(
    store: BinaryStore, real: Path
) -> None:
    binary = (await store.add(real)).binary
    binary.path.unlink()
    binary.path.write_bytes((real / FIRECRACKER).read_bytes() + b"\0")
    binary.path.chmod(0o555)
    with pytest.raises(SetupIncomplete, match="was replaced: it is not the program that"):
        store.find(FC, binary.digest, VERSION)


@net
async def test_the_jailer_alone_is_no_vmm(store: BinaryStore, real: Path) -> None:
    with pytest.raises(InvalidArgument, match="is Firecracker's jailer"):
        await store.add(real / JAILER)


async def test_a_cloud_hypervisor_of_this_machine(store: BinaryStore) -> None:
    named = os.environ.get(CLOUD_HYPERVISOR)
    if not named:
        pytest.skip(f"NOT TESTED: {CLOUD_HYPERVISOR} names no Cloud Hypervisor")
    binary = (await store.add(Path(named))).binary
    assert binary.version >= OLDEST[Vmm.CLOUD_HYPERVISOR]
    assert store.find(Vmm.CLOUD_HYPERVISOR, binary.digest, str(binary.version)) == binary
    (one,) = [await again(one) for one in store.installed()]
    assert one.problem == ""

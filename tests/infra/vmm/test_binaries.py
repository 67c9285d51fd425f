# SPDX-License-Identifier: Apache-2.0
"""The store of VMM programs: side by side, verified at each use, whole or not there."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from tests.support import harm
from tests.support.fake_vmm import fake_vmm, firecracker, jailer
from tests.support.small_disk import needs_root, small_disk

from waggle.domain.errors import (
    Busy,
    DiskFull,
    InvalidArgument,
    NotFound,
    SetupIncomplete,
    WaggleError,
)
from waggle.infra.vmm import kept
from waggle.infra.vmm.binaries import Added, Binary, BinaryStore
from waggle.infra.vmm.client import Dial
from waggle.infra.vmm.version import Version, Vmm

pytestmark = pytest.mark.anyio
FC, CH = Vmm.FIRECRACKER, Vmm.CLOUD_HYPERVISOR
NOTHING: Callable[[str], str] = lambda _digest: ""  # noqa: E731 (a constant function)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories with a Firecracker each, by version; the first two have a jailer beside it."""
    place = tmp_path_factory.mktemp("programs")
    for version in ("1.10.1", "1.12.1", "1.13.0"):
        firecracker(place / version / "firecracker", version)
    for version in ("1.10.1", "1.12.1"):
        jailer(place / version / "jailer", version)
    fake_vmm(place / "another-1.13.0", r"Firecracker v1.13.0\nanother", "1.13.0")
    fake_vmm(place / "cloud-hypervisor", "cloud-hypervisor v48.0.0")
    return place


@pytest.fixture
def store(tmp_path: Path) -> BinaryStore:
    return BinaryStore(tmp_path / "data" / "system" / "binaries")


def left(store: BinaryStore) -> list[str]:
    """The names of all files in the store, except its lock."""
    files = (path for path in store.directory.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(store.directory)) for path in files if path.name != ".lock")


def rewritten(path: Path, change: Callable[[Path], None]) -> None:
    path.chmod(0o755)
    change(path)
    path.chmod(0o555)


async def test_a_program_is_kept_with_its_jailer_and_a_record(
    store: BinaryStore, programs: Path
) -> None:
    added = await store.add(programs / "1.12.1")
    assert added.new
    place = store.directory / "firecracker" / "1.12.1" / store.arch
    binary = store.newest(FC)
    assert binary == added.binary
    assert (binary.vmm, binary.version, binary.path) == (FC, Version(1, 12, 1), place / FC)
    assert binary.jailer == place / "jailer"
    for path in (binary.path, place / "jailer"):
        assert path.stat().st_mode & 0o7777 == 0o555
    for directory in (place, place.parent, place.parent.parent, store.directory):
        assert directory.stat().st_mode & 0o7777 == 0o755
    record = json.loads((place / "record.json").read_text())
    assert record["sha256"] == binary.digest == kept.digest_of(binary.path)
    assert (record["version"], record["source"]) == ("1.12.1", "firecracker")
    assert len(left(store)) == 3


async def test_a_binary_is_the_files_that_were_verified(store: BinaryStore, programs: Path) -> None:
    """Whoever starts it may find others in their place by then."""
    await store.add(programs / "1.12.1")
    first = store.newest(FC)
    for path, identity in (
        (first.path, first.identity),
        (first.path.with_name("jailer"), first.jailer_identity),
    ):
        about = path.stat()
        assert identity == (about.st_dev, about.st_ino, about.st_ctime_ns)
    store.remove(FC, Version(1, 12, 1), lambda _: "")
    await store.add(programs / "1.12.1")
    assert store.newest(FC).identity != first.identity
    assert store.newest(FC) == replace(first, added=store.newest(FC).added)


async def test_a_umask_does_not_hide_the_program(store: BinaryStore, programs: Path) -> None:
    before = os.umask(0o077)
    try:
        await store.add(programs / "1.12.1")
    finally:
        os.umask(before)
    assert store.newest(FC).path.parent.stat().st_mode & 0o7777 == 0o755


async def test_versions_lie_side_by_side_and_the_newest_is_used(
    store: BinaryStore, programs: Path
) -> None:
    for version in ("1.12.1", "1.10.1", "1.13.0"):
        await store.add(programs / version)
    await store.add(programs / "cloud-hypervisor")
    found = [(one.vmm, str(one.version), one.problem) for one in store.installed()]
    expected = [(CH, "48.0.0", ""), (FC, "1.10.1", ""), (FC, "1.12.1", ""), (FC, "1.13.0", "")]
    assert found == expected
    assert store.newest(FC).version == Version(1, 13)
    assert store.newest(FC).jailer is None
    assert "no hypervisor here" in store.newest(CH).unasked
    old = kept.digest_of(programs / "1.10.1" / "firecracker")
    assert store.find(FC, old, "1.10.1").version == Version(1, 10, 1)


async def test_what_a_foreign_file_names_is_not_repeated_unless_it_is_a_version(
    store: BinaryStore,
) -> None:
    for digest, version in (("", ""), ("\x1b[2J" + "0" * 100, "9" * 10_000), ("0" * 65, "1\n2")):
        with pytest.raises(SetupIncomplete) as missing:
            store.find(FC, digest, version)
        assert missing.value.message == "It needs another Firecracker, which is not here."
        assert missing.value.hint == "Add that program: waggle vmm add PATH."
    with pytest.raises(SetupIncomplete, match=r"It needs Firecracker 1\.12\.1, which"):
        store.find(FC, "0" * 64, "1.12.1")


async def test_an_empty_store_says_how_to_add_one(store: BinaryStore) -> None:
    assert store.installed() == ()
    with pytest.raises(SetupIncomplete, match="Firecracker is not installed") as missing:
        store.newest(FC)
    assert "waggle vmm add PATH" in missing.value.hint
    assert "1.10.0 and newer" in missing.value.hint
    with pytest.raises(SetupIncomplete, match=r"needs Cloud Hypervisor 48\.0\.0, which"):
        store.find(CH, "0" * 64, "48.0.0")
    assert not store.directory.exists()


async def test_the_same_again_changes_nothing_and_may_bring_a_jailer(
    store: BinaryStore, programs: Path
) -> None:
    first = (await store.add(programs / "1.13.0")).binary
    again = await store.add(programs / "1.13.0" / "firecracker")
    assert not again.new
    assert again.binary == first
    its_jailer = jailer(programs / "apart" / "jailer", "1.13.0")
    with_jailer = await store.add(programs / "1.13.0", its_jailer)
    assert with_jailer.new
    assert store.newest(FC).jailer is not None
    assert not (await store.add(programs / "1.13.0")).new
    assert store.newest(FC).jailer is not None


async def test_another_build_of_a_version_is_refused(store: BinaryStore, programs: Path) -> None:
    first = (await store.add(programs / "1.13.0")).binary
    with pytest.raises(InvalidArgument, match=r"Another build of Firecracker 1\.13\.0") as refused:
        await store.add(programs / "another-1.13.0")
    assert "waggle vmm rm firecracker 1.13.0" in refused.value.hint
    other = kept.digest_of(programs / "another-1.13.0")
    with pytest.raises(SetupIncomplete, match="made by another build") as missing:
        store.find(FC, other, "1.13.0")
    assert other in missing.value.hint
    assert store.newest(FC) == first


async def test_another_build_does_not_replace_a_damaged_one(
    store: BinaryStore, programs: Path
) -> None:
    """A frozen machine may need the one that was there: it can be added again."""
    binary = (await store.add(programs / "1.13.0")).binary
    rewritten(binary.path, harm.flip)
    with pytest.raises(InvalidArgument, match=r"Another build of Firecracker 1\.13\.0"):
        await store.add(programs / "another-1.13.0")
    assert (await store.add(programs / "1.13.0")).new
    assert store.newest(FC).digest == binary.digest


async def test_another_build_does_not_replace_one_without_a_record(
    store: BinaryStore, programs: Path
) -> None:
    binary = (await store.add(programs / "1.13.0")).binary
    binary.path.with_name(kept.RECORD).unlink()
    with pytest.raises(InvalidArgument, match=r"Another build of Firecracker 1\.13\.0"):
        await store.add(programs / "another-1.13.0")
    assert (await store.add(programs / "1.13.0")).new


async def test_a_damaged_program_keeps_its_jailer(
    store: BinaryStore, programs: Path, tmp_path: Path
) -> None:
    """Root's machines would start without it, and nobody was asked."""
    binary = (await store.add(programs / "1.12.1")).binary
    assert binary.jailer is not None
    rewritten(binary.path, harm.flip)
    alone = shutil.copy(programs / "1.12.1" / "firecracker", tmp_path)
    with pytest.raises(InvalidArgument, match="damaged, and had its jailer") as refused:
        await store.add(Path(alone))
    assert "--jailer" in refused.value.hint
    assert (await store.add(programs / "1.12.1")).binary.jailer is not None


async def test_a_refused_program_leaves_nothing(store: BinaryStore, programs: Path) -> None:
    lying = firecracker(programs / "lying", "1.13.0", "1.12.1")
    with pytest.raises(InvalidArgument, match="lies"):
        await store.add(lying)
    with pytest.raises(InvalidArgument, match="jailer of"):
        await store.add(programs / "1.13.0", programs / "1.12.1" / "jailer")
    with pytest.raises(InvalidArgument, match="is no jailer: it is no ELF program") as refused:
        await store.add(programs / "1.13.0", Path(__file__))
    assert "--jailer" in refused.value.hint
    assert left(store) == []


def replaced(binary: Binary) -> None:
    binary.path.unlink()
    shutil.copy(sys.executable, binary.path)
    binary.path.chmod(0o555)


HARM: dict[str, tuple[Callable[[Binary], object], str]] = {
    "flipped": (lambda one: rewritten(one.path, harm.flip), "was replaced"),
    "cut": (lambda one: rewritten(one.path, harm.cut), "was replaced"),
    "replaced": (replaced, "was replaced"),
    "gone": (lambda one: one.path.unlink(), "No such file"),
    "link": (lambda one: (one.path.unlink(), one.path.symlink_to("/bin/true")), "something else"),
    "writable": (lambda one: one.path.chmod(0o775), "can be written by other users"),
    "not executable": (lambda one: one.path.chmod(0o444), "is not executable for all"),
    "setuid": (lambda one: one.path.chmod(0o4555), "rights of its owner"),
    "directory": (lambda one: one.path.parent.chmod(0o777), "can be written by other users"),
    "store": (lambda one: one.path.parents[3].chmod(0o757), "can be written by other users"),
    "above": (lambda one: one.path.parents[5].chmod(0o777), "can be written by other users"),
    "record": (lambda one: one.path.with_name(kept.RECORD).unlink(), "missing or damaged"),
    "jailer": (lambda one: rewritten(one.path.with_name("jailer"), harm.flip), "was replaced"),
}


@pytest.mark.parametrize("name", HARM)
async def test_a_changed_program_is_refused_until_it_is_added_again(
    store: BinaryStore, programs: Path, name: str
) -> None:
    await store.add(programs / "1.10.1")
    binary = (await store.add(programs / "1.12.1")).binary
    assert store.newest(FC) == store.find(FC, binary.digest, "1.12.1") == binary
    hurt, why = HARM[name]
    hurt(binary)
    (_, one) = store.installed()
    assert why in one.problem
    with pytest.raises(SetupIncomplete, match=r"Firecracker 1\.12\.1 cannot be used") as refused:
        store.newest(FC)
    assert why in refused.value.message
    with pytest.raises(SetupIncomplete):
        store.find(FC, binary.digest, "1.12.1")
    if name in ("store", "above"):  # only the operator can say who may write there
        assert "chmod go-w" in refused.value.hint
        with pytest.raises(SetupIncomplete, match="No program can be kept") as not_kept:
            await store.add(programs / "1.12.1")
        assert why in not_kept.value.message
        assert "chmod go-w" in not_kept.value.hint
        return
    assert "waggle vmm add PATH" in refused.value.hint
    assert (await store.add(programs / "1.12.1")).new
    assert store.find(FC, binary.digest, "1.12.1").digest == binary.digest
    assert store.newest(FC).version == Version(1, 12, 1)


@needs_root
async def test_a_program_of_another_user_is_refused(store: BinaryStore, programs: Path) -> None:
    binary = (await store.add(programs / "1.12.1")).binary
    os.chown(binary.path, 1234, 1234)
    with pytest.raises(SetupIncomplete, match="belongs to user 1234"):
        store.newest(FC)
    os.chown(binary.path.parent, 1234, 1234)
    assert BinaryStore(store.directory, owners=[1234]).newest(FC).digest == binary.digest


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"sha256": "abc"}, {"sha256": None}, {"version": "1.13.0"},
        {"vmm": "cloud-hypervisor"}, {"arch": "riscv64"}, {"jailer_sha256": "x"},
    ],
)  # fmt: skip
async def test_a_foreign_record_is_refused(
    store: BinaryStore, programs: Path, change: dict[str, object]
) -> None:
    record = (await store.add(programs / "1.12.1")).binary.path.with_name(kept.RECORD)
    record.chmod(0o644)
    for text in (
        json.dumps({**json.loads(record.read_text()), **change}),
        "[" * 100_000,
        "[]",
        "\0",
        "",
    ):
        record.write_text(text)
        with pytest.raises(SetupIncomplete, match=r"record\.json is missing or damaged"):
            store.newest(FC)


async def test_foreign_files_in_the_store_are_left_alone(
    store: BinaryStore, programs: Path
) -> None:
    await store.add(programs / "1.12.1")
    for name in ("firecracker/notes/x86_64", "firecracker/1.9/x86_64", "qemu/7.0.0/x86_64"):
        (store.directory / name).mkdir(parents=True)
    assert [str(one.version) for one in store.installed()] == ["1.12.1"]


async def test_a_program_of_another_machine_or_too_old_is_shown_but_not_used(
    store: BinaryStore, programs: Path
) -> None:
    binary = (await store.add(programs / "1.12.1")).binary
    elsewhere = BinaryStore(store.directory, arch="aarch64")
    (one,) = elsewhere.installed()
    assert "and this machine is aarch64" in one.problem
    with pytest.raises(SetupIncomplete, match="not installed"):
        elsewhere.newest(FC)
    with pytest.raises(InvalidArgument, match="this machine is aarch64"):
        await elsewhere.add(programs / "1.13.0")
    old = store.directory / FC / "1.9.0" / store.arch
    shutil.copytree(binary.path.parent, old)
    record = json.loads((old / kept.RECORD).read_text())
    (old / kept.RECORD).chmod(0o644)
    (old / kept.RECORD).write_text(json.dumps({**record, "version": "1.9.0"}))
    assert "it is not supported" in store.installed()[0].problem


class TestRemoval:
    async def test_a_version_is_removed(self, store: BinaryStore, programs: Path) -> None:
        await store.add(programs / "1.12.1")
        await store.add(programs / "1.13.0")
        store.remove(FC, Version(1, 12, 1), NOTHING)
        assert [str(one.version) for one in store.installed()] == ["1.13.0"]
        store.remove(FC, Version(1, 13), NOTHING)
        assert [path.name for path in store.directory.iterdir()] == [".lock"]
        for version in (Version(1, 13), Version(2)):
            with pytest.raises(NotFound, match="is not installed"):
                store.remove(FC, version, NOTHING)

    async def test_nothing_is_removed_that_is_needed(
        self, store: BinaryStore, programs: Path
    ) -> None:
        binary = (await store.add(programs / "1.12.1")).binary
        with pytest.raises(Busy, match=r"1\.12\.1 is needed by 2 snapshots") as refused:
            store.remove(FC, binary.version, {binary.digest: "2 snapshots"}.__getitem__)
        assert "--force" in refused.value.hint
        assert store.newest(FC) == binary
        binary.path.with_name(kept.RECORD).unlink()
        with pytest.raises(Busy, match=r"1\.12\.1 is needed by 2 snapshots"):
            store.remove(FC, binary.version, {binary.digest: "2 snapshots"}.__getitem__)
        assert (await store.add(programs / "1.12.1")).binary.digest == binary.digest

    async def test_a_damaged_version_can_be_removed(
        self, store: BinaryStore, programs: Path
    ) -> None:
        binary = (await store.add(programs / "1.12.1")).binary
        shutil.rmtree(binary.path.parent)
        binary.path.parent.mkdir()
        store.remove(FC, binary.version, NOTHING)
        assert store.installed() == ()

    async def test_removing_from_no_store(self, store: BinaryStore) -> None:
        with pytest.raises(NotFound):
            store.remove(FC, Version(1, 12, 1), NOTHING)


class TestTogether:
    async def test_two_adds_at_once_keep_one(self, store: BinaryStore, programs: Path) -> None:
        """Each is examined before either is placed."""
        both = asyncio.Barrier(2)

        async def ask(_dial: Dial, _vmm: Vmm, version: Version) -> str:
            await both.wait()
            return str(version)

        async def outcome(add: Awaitable[Added]) -> bool | str:
            try:
                return (await add).new
            except WaggleError as error:
                return error.message

        add = partial(store.add, ask=ask)
        same = (outcome(add(programs / "1.12.1")), outcome(add(programs / "1.12.1")))
        assert sorted(await asyncio.gather(*same)) == [False, True]
        others = (
            outcome(add(programs / "1.13.0")),
            outcome(add(programs / "another-1.13.0")),
        )
        refused, placed = sorted(await asyncio.gather(*others), key=str)
        assert placed is True
        assert "Another build" in str(refused)
        assert [one.problem for one in store.installed()] == ["", ""]

    async def test_a_killed_add_is_swept_by_the_next(
        self, store: BinaryStore, programs: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "temporary").mkdir()
        killed = subprocess.run(
            [sys.executable, "-c", DIES, store.directory, programs / "1.12.1"],
            env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
            check=False,
            capture_output=True,
            timeout=60,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert any(".tmp-" in name for name in left(store))
        assert list((tmp_path / "temporary").iterdir()) == []
        assert store.installed() == ()
        await store.add(programs / "1.13.0")
        assert not any(".tmp-" in name for name in left(store))
        assert [str(one.version) for one in store.installed()] == ["1.13.0"]

    async def test_a_cancelled_add_leaves_nothing(self, store: BinaryStore, programs: Path) -> None:
        asked = asyncio.Event()

        async def ask(_dial: Dial, _vmm: Vmm, _version: Version) -> str:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

        adding = asyncio.ensure_future(store.add(programs / "1.12.1", ask=ask))
        async with asyncio.timeout(20):
            await asked.wait()
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        assert left(store) == []


async def test_an_add_of_another_jailer_that_is_killed_leaves_a_program_that_can_be_used(
    store: BinaryStore, programs: Path, tmp_path: Path
) -> None:
    await store.add(programs / "1.12.1")
    other = jailer(tmp_path / "other" / "jailer", "1.12.1")
    with other.open("ab") as file:
        file.write(b"another build")
    arguments = (store.directory, programs / "1.12.1", other)
    statuses: list[int] = []
    while 0 not in statuses:
        assert len(statuses) < 10
        script = (sys.executable, "-c", DIES_AT, *map(str, arguments), str(len(statuses)))
        adding = await asyncio.create_subprocess_exec(*script)
        async with asyncio.timeout(30):
            statuses.append(await adding.wait())
        assert BinaryStore(store.directory).newest(FC).version == Version(1, 12, 1)
    assert statuses[:-1] == [-signal.SIGKILL] * (len(statuses) - 1)
    assert len(statuses) > 2
    assert store.newest(FC).jailer_digest == kept.digest_of(other)


DIES_AT = """
import asyncio, os, sys
from pathlib import Path
from waggle.infra.vmm.binaries import BinaryStore

left = int(sys.argv[4])

def die(event, arguments):
    global left
    if event == "os.rename" and "firecracker/1.12.1" in str(arguments[1]):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)

sys.addaudithook(die)
asyncio.run(BinaryStore(Path(sys.argv[1])).add(Path(sys.argv[2]), Path(sys.argv[3])))
"""
DIES = """
import asyncio, os, sys
from pathlib import Path
from waggle.infra.vmm.binaries import BinaryStore

async def die(*_):
    os.kill(os.getpid(), 9)

asyncio.run(BinaryStore(Path(sys.argv[1])).add(Path(sys.argv[2]), ask=die))
"""


@needs_root
async def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path: Path, programs: Path) -> None:
    with small_disk(tmp_path / "disk", 4) as disk:
        store = BinaryStore(disk.path / "system" / "binaries")
        await store.add(programs / "1.12.1")
        disk.fill(leave=200_000)
        with pytest.raises(DiskFull):
            await store.add(programs / "1.13.0")
        assert store.newest(FC).version == Version(1, 12, 1)
        assert len(left(store)) == 3
        disk.free()
        await store.add(programs / "1.13.0")
        assert store.newest(FC).version == Version(1, 13)
        with disk.read_only(), pytest.raises((DiskFull, SetupIncomplete)):
            await store.add(programs / "1.10.1")

# SPDX-License-Identifier: Apache-2.0
"""Export and import of snapshots, beside a running server that notices them."""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from tests.service.local.frozen.kept import (
    LATER,
    NEW,
    OLD,
    THEN,
    VMM,
    installed,
    kept,
    machine_parts,
)
from tests.support.small_disk import needs_root, small_disk

from waggle.domain.errors import FrozenMachineUnusable, Unsupported
from waggle.domain.hypervisor import ByHypervisor
from waggle.domain.machine import Hypervisor
from waggle.domain.secrets import mint
from waggle.domain.secrets.held import NO_SECRETS, HeldSecrets
from waggle.domain.snapshot import Snapshot
from waggle.infra.store import frozen_archive, frozen_files
from waggle.infra.store.frozen_archive import pack
from waggle.infra.store.frozen_files import FILES, MANIFEST
from waggle.service.local.blueprint import GuestParts
from waggle.service.local.frozen import Freezer
from waggle.service.local.frozen.snapshots import (
    LocalSnapshots,
    bring,
    export,
    read_snapshots,
    write_new,
)

PLACEHOLDER = mint("github", lambda: "0" * 32)


class Qemu:
    """A hypervisor that only compares fingerprints."""

    name = "qemu"

    def __init__(self, vmm: dict[str, str]) -> None:
        self._vmm = vmm

    def lock(self, fingerprint: dict[str, str]) -> str | None:
        return None if fingerprint == self._vmm else "version of QEMU"

    def load(self, directory: Path) -> object:
        raise AssertionError(directory)


def freezer(here: Path, vmm: dict[str, str] = VMM) -> Freezer:
    """Return the `Freezer` of machines whose parts are below `here`."""
    disk, kernel, kit = machine_parts(here)
    parts = GuestParts(lambda: kernel, lambda: kit, cast("Any", None), b"")
    return Freezer(cast("Any", Qemu(vmm)), here / "freezing", disk.parent, parts)


@dataclass(frozen=True)
class Part:
    freezing: Freezer

    @property
    def hypervisor(self) -> Hypervisor:
        return self.freezing.hypervisor


def exported(directory: Path) -> io.BytesIO:
    out = io.BytesIO()
    export(directory, out)
    out.seek(0)
    return out


def imported(data: io.BytesIO, here: Path, vmm: dict[str, str] = VMM) -> Snapshot:
    shelf = here / "snapshots"
    own = freezer(here, vmm)
    return bring(data, shelf, lambda _: own, snapshot_id=NEW, owner="bob", expires_at=LATER)


def refusal(data: io.BytesIO, here: Path, vmm: dict[str, str] = VMM) -> str:
    """Return why the import is refused, and check that it left nothing."""
    with pytest.raises(FrozenMachineUnusable) as caught:
        imported(data, here, vmm)
    assert [*(here / "snapshots").iterdir()] == []
    return str(caught.value)


def test_an_imported_snapshot_belongs_to_its_new_owner(tmp_path: Path) -> None:
    there = kept(tmp_path / "a")
    snapshot = imported(exported(there), installed(tmp_path / "b"))
    assert (snapshot.id, snapshot.owner, snapshot.name) == (NEW, "bob", "ready")
    assert (snapshot.created_at, snapshot.expires_at) == (THEN, LATER)
    assert snapshot.registries is None, "a file does not say what a maximum of @packages allows"
    assert read_snapshots(tmp_path / "b" / "snapshots") == [snapshot]
    directory = tmp_path / "b" / "snapshots" / NEW
    assert frozen_files.problem(directory) is None
    assert directory.stat().st_mode & 0o777 == 0o700
    assert all((directory / name).read_bytes() == (there / name).read_bytes() for name in FILES)
    assert [path.name for path in (tmp_path / "b" / "snapshots").iterdir()] == [NEW]


def with_secret(facts: dict[str, Any]) -> None:
    held = HeldSecrets({"github": PLACEHOLDER}, "-----BEGIN PRIVATE KEY-----")
    facts["snapshot"]["secrets"] = held.facts()
    facts["snapshot"]["variables"] = {"GITHUB_TOKEN": PLACEHOLDER, "A": "b"}


def test_a_snapshot_keeps_its_secrets_here(tmp_path: Path) -> None:
    kept(tmp_path / "a", with_secret)
    (snapshot,) = read_snapshots(tmp_path / "a" / "snapshots")
    assert snapshot.secrets.placeholders == {"github": PLACEHOLDER}


def test_an_export_has_no_secrets_and_an_import_takes_none(tmp_path: Path) -> None:
    there = kept(tmp_path / "a", with_secret)
    assert b"PRIVATE KEY" in (there / MANIFEST).read_bytes()
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    data = exported(there)
    frozen_archive.unpack(data, unpacked, lambda _: dict.fromkeys(FILES, 1 << 30))
    assert b"PRIVATE KEY" not in (unpacked / MANIFEST).read_bytes()
    smuggled = io.BytesIO()
    pack(there, (there / MANIFEST).read_bytes(), smuggled)
    for number, file in enumerate((data, smuggled)):
        file.seek(0)
        snapshot = imported(file, installed(tmp_path / str(number)))
        assert snapshot.secrets == NO_SECRETS
        assert snapshot.variables == {"A": "b"}


def test_a_running_server_notices_imported_and_removed_snapshots(tmp_path: Path) -> None:
    data = exported(kept(tmp_path / "a"))
    own = freezer(tmp_path / "a")
    shelf = LocalSnapshots(tmp_path / "a" / "snapshots", lambda _: own)
    assert [snapshot.id for snapshot in shelf.all()] == [OLD]
    imported(data, tmp_path / "a")
    assert {snapshot.id for snapshot in shelf.all()} == {OLD, NEW}
    (tmp_path / "a" / "snapshots" / OLD).rename(tmp_path / "gone")
    assert [snapshot.id for snapshot in shelf.all()] == [NEW]


def test_an_import_is_refused_where_parts_or_versions_differ(tmp_path: Path) -> None:
    there = kept(tmp_path / "a")
    for number, part in enumerate(("image.erofs", "kernel-1", "kit-1.erofs")):
        here = installed(tmp_path / str(number))
        (path,) = here.rglob(part)
        path.unlink()
        assert f"parts is gone: {part}" in refusal(exported(there), here)
    newer = {**VMM, "vmm": "QEMU 11.0"}
    assert "another version of QEMU" in refusal(
        exported(there), installed(tmp_path / "newer"), newer
    )


def test_a_corrupt_snapshot_is_not_exported(tmp_path: Path) -> None:
    there = kept(tmp_path / "a")
    (there / "ram").write_bytes(b"other")
    with pytest.raises(FrozenMachineUnusable, match="ram is corrupt"):
        write_new(tmp_path / "file", there)
    assert not (tmp_path / "file").exists()


def test_a_snapshot_that_does_not_match_its_checksums_is_not_imported(tmp_path: Path) -> None:
    there = kept(tmp_path / "a")
    manifest = json.loads((there / MANIFEST).read_bytes())
    manifest["crc32"]["state"] = "0" * 64
    (there / MANIFEST).write_text(json.dumps(manifest))
    out = io.BytesIO()
    pack(there, (there / MANIFEST).read_bytes(), out)
    out.seek(0)
    assert "state is corrupt" in refusal(out, installed(tmp_path / "b"))


@pytest.mark.parametrize(
    "part, name, value, words",
    [
        ("", "resources", None, "not one of ours"),
        ("resources", "memory_mib", 1 << 30, "too large"),
        ("resources", "disk_mib", "64", "too large"),
        ("image", "disk", "../guest/kernel-1", "not one of ours"),
        ("", "kernel", "/etc/passwd", "not one of ours"),
        ("", "snapshot", None, "not one of ours"),
        ("snapshot", "runtime", "perl", "not one of ours"),
        ("", "hypervisor", "../qemu", "not one of ours"),
        ("", "hypervisor", ["qemu"], "not one of ours"),
        ("", "hypervisor", "krun", "was not frozen by qemu"),
    ],
)
def test_invalid_manifests_are_refused(
    tmp_path: Path, part: str, name: str, value: object, words: str
) -> None:
    def change(facts: dict[str, Any]) -> None:
        (facts[part] if part else facts)[name] = value

    assert words in refusal(exported(kept(tmp_path / "a", change)), installed(tmp_path / "b"))


@pytest.mark.parametrize(
    "part, name, value, words",
    [
        ("snapshot", "resources", [1, 1, 1], "with 1 CPUs, 1 MiB of memory and 1 MiB of disk, but"),
        ("snapshot", "resources", [2, 2, 1], "with 2 CPUs"),
        ("resources", "cpus", 2, "machine has 2 CPUs, 2 MiB of memory and 1 MiB of disk"),
        ("both", "memory_mib", 1, "ram has 2097152 bytes, but its machine 1 MiB"),
        ("both", "disk_mib", 2, "scratch.img has 1048576 bytes, but its machine 2 MiB"),
    ],
)
def test_sizes_that_disagree_are_refused(
    tmp_path: Path, part: str, name: str, value: object, words: str
) -> None:
    """An environment counts as what it says, and takes what its machine has."""

    def change(facts: dict[str, Any]) -> None:
        if part != "both":
            facts[part][name] = value
        else:
            facts["resources"][name] = value
            facts["snapshot"]["resources"] = [*facts["resources"].values()]

    why = refusal(exported(kept(tmp_path / "a", change)), installed(tmp_path / "b"))
    assert words in why
    assert "export the snapshot again" in why


def test_a_snapshot_of_before_hypervisors_had_names_is_of_qemu(tmp_path: Path) -> None:
    def older(facts: dict[str, Any]) -> None:
        del facts["hypervisor"]

    there = kept(tmp_path / "a", older)
    (found,) = read_snapshots(tmp_path / "a" / "snapshots")
    assert found.hypervisor == "qemu"
    assert imported(exported(there), installed(tmp_path / "b")).hypervisor == "qemu"


def test_a_snapshot_of_a_hypervisor_that_is_not_here_names_it(tmp_path: Path) -> None:
    def newer(facts: dict[str, Any]) -> None:
        facts["hypervisor"] = "cloud-hypervisor"

    data = exported(kept(tmp_path / "a", newer))
    own = ByHypervisor(Part(freezer(installed(tmp_path / "b"))))
    shelf = tmp_path / "b" / "snapshots"
    with pytest.raises(Unsupported, match="cloud-hypervisor") as refused:
        bring(
            data,
            shelf,
            lambda name: own.of(name).freezing,
            snapshot_id=NEW,
            owner="bob",
            expires_at=LATER,
        )
    assert "add cloud-hypervisor to WAGGLE_HYPERVISOR" in refused.value.hint
    assert not [*shelf.iterdir()]


def test_an_exported_file_is_new_and_private(tmp_path: Path) -> None:
    there = kept(tmp_path / "a")
    size = write_new(tmp_path / "file", there)
    assert (tmp_path / "file").stat().st_size == size
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "file", there)


@needs_root
def test_on_a_full_disk_export_and_import_fail_and_leave_nothing(tmp_path: Path) -> None:
    there = kept(tmp_path / "a")
    for name in FILES:
        with (there / name).open("r+b") as file:
            file.write(random.Random(name).randbytes(300_000))
    frozen_files.seal(there, frozen_files.facts(there))
    with small_disk(tmp_path / "disk", 4) as disk:
        disk.fill(leave=500_000)
        with pytest.raises(OSError, match="No space left"):
            write_new(disk.path / "file", there)
        with pytest.raises(OSError, match="No space left"):
            imported(exported(there), disk.path)
        assert {path.name for path in disk.path.iterdir()} == {"ballast", "snapshots"}
        assert [*(disk.path / "snapshots").iterdir()] == []
        disk.free()
        assert write_new(disk.path / "file", there) > 1_000_000
        assert imported(exported(there), installed(disk.path)).id == NEW


def test_a_snapshot_has_the_registries_of_its_environment(tmp_path: Path) -> None:
    def older(facts: dict[str, Any]) -> None:
        del facts["snapshot"]["registries"]

    kept(tmp_path / "new")
    kept(tmp_path / "old", older)
    (new,) = read_snapshots(tmp_path / "new" / "snapshots")
    (old,) = read_snapshots(tmp_path / "old" / "snapshots")
    assert (new.registries, old.registries) == (("pip.example.org:443",), None)

# SPDX-License-Identifier: Apache-2.0
"""Files of frozen machines in a /run that a hostile VMM may have filled."""

from __future__ import annotations

import contextlib
import json
import os
import tracemalloc
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import BootFailed
from waggle.infra.cloud_hypervisor import frozen
from waggle.infra.cloud_hypervisor.frozen import MAX_STATE, without_memory
from waggle.infra.guest.frozen import FrozenFiles

MIB = 4


def state(ranges: list[dict[str, int]] | None = None) -> bytes:
    """Return a state as Cloud Hypervisor writes it: JSON with JSON inside."""
    manager = {
        "memory_ranges": {"data": ranges or [{"gpa": 0, "length": MIB << 20}]},
        "boot_ram": 1,
    }
    inner = {"snapshots": {}, "snapshot_data": {"state": json.dumps(manager)}}
    return json.dumps({"snapshots": {"memory-manager": inner}, "snapshot_data": None}).encode()


@pytest.fixture
def run(tmp_path: Path) -> Generator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def copy() -> Generator[FrozenFiles]:
    with contextlib.closing(FrozenFiles("53.0.0 digest")) as made:
        yield made


@pytest.fixture
def written(tmp_path: Path, run: int) -> Generator[tuple[Path, int]]:
    """A directory into which a VMM writes a snapshot, open."""
    directory = frozen.make_directory(run, None)
    yield tmp_path / "snapshot", directory
    os.close(directory)


def test_a_machines_own_memory_is_taken_without_holes(
    written: tuple[Path, int], run: int, copy: FrozenFiles
) -> None:
    memory = frozen.make_memory(run, MIB, None)
    os.pwrite(memory, b"word", 1 << 20)
    (written[0] / "state.json").write_bytes(state())
    frozen.take(written[1], memory, MIB, copy)
    assert os.pread(memory, 4, 1 << 20) == b"word", "the machine runs on with it"
    os.close(memory)
    assert os.fstat(copy.ram).st_size == MIB << 20
    assert os.fstat(copy.ram).st_blocks * 512 < 1 << 20
    assert os.pread(copy.ram, 4, 1 << 20) == b"word"
    assert b'\\"data\\":[]' in os.pread(copy.state, MAX_STATE, 0)


def test_the_memory_of_a_copy_is_what_its_vmm_wrote(
    written: tuple[Path, int], copy: FrozenFiles
) -> None:
    (written[0] / "state.json").write_bytes(state())
    ranges = written[0] / "memory-ranges"
    ranges.write_bytes(bytes(1 << 20) + b"word" + bytes((MIB - 1 << 20) - 4))
    frozen.take(written[1], None, MIB, copy)
    assert os.fstat(copy.ram).st_size == MIB << 20
    assert os.pread(copy.ram, 4, 1 << 20) == b"word"
    assert ranges.stat().st_blocks == 0, "it is freed while it is taken"


@pytest.mark.parametrize("size", [0, 1, (MIB << 20) - 1, (MIB << 20) + 1])
def test_another_size_of_memory_is_refused(
    written: tuple[Path, int], copy: FrozenFiles, size: int
) -> None:
    (written[0] / "state.json").write_bytes(state())
    (written[0] / "memory-ranges").write_bytes(bytes(size))
    with pytest.raises(BootFailed, match="another size"):
        frozen.take(written[1], None, MIB, copy)


@pytest.mark.parametrize("name", ["state.json", "memory-ranges"])
@pytest.mark.parametrize("kind", ["link", "pipe", "directory", "none"])
def test_what_is_no_file_is_never_followed_and_never_waited_for(
    written: tuple[Path, int], copy: FrozenFiles, tmp_path: Path, name: str, kind: str
) -> None:
    (written[0] / "state.json").write_bytes(state())
    (written[0] / "memory-ranges").write_bytes(bytes(MIB << 20))
    secret = tmp_path / "secret"
    secret.write_bytes(state())
    place = written[0] / name
    place.unlink()
    if kind == "link":
        place.symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "directory":
        place.mkdir()
    with pytest.raises((BootFailed, OSError)):
        frozen.take(written[1], None, MIB, copy)
    assert os.fstat(copy.state).st_size == 0


@pytest.mark.parametrize("said", [b"", b"x" * (MAX_STATE + 1)])
def test_a_state_of_a_senseless_size_is_refused(
    written: tuple[Path, int], copy: FrozenFiles, said: bytes
) -> None:
    (written[0] / "state.json").write_bytes(said)
    with pytest.raises(BootFailed, match="no state"):
        frozen.take(written[1], None, MIB, copy)


@pytest.mark.parametrize(
    "said",
    [
        b"{",
        b"[]",
        b"null",
        b'{"snapshots":{}}',
        b'{"snapshots":{"memory-manager":{"snapshot_data":{"state":7}}}}',
        b'{"snapshots":{"memory-manager":{"snapshot_data":{"state":"[]"}}}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_state_is_refused(said: bytes) -> None:
    with pytest.raises(BootFailed, match="no state"):
        without_memory(said)


@pytest.mark.parametrize("inner", ["[" + "[]," * 1_000_000 + "[]]", "[" * 30_000 + "]" * 30_000])
def test_a_state_within_the_state_is_bounded_too(inner: str) -> None:
    said = json.dumps({"snapshots": {"memory-manager": {"snapshot_data": {"state": inner}}}})
    tracemalloc.start()
    try:
        with pytest.raises(BootFailed, match="no state"):
            without_memory(said.encode())
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


@given(st.integers(0, len(state()) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_changes_no_memory(at: int, by: int) -> None:
    damaged = bytearray(state())
    damaged[at] ^= by
    with contextlib.suppress(BootFailed):
        found: Any = json.loads(without_memory(bytes(damaged)))
        inner = found["snapshots"]["memory-manager"]["snapshot_data"]["state"]
        assert json.loads(inner)["memory_ranges"]["data"] == []


def test_a_restore_finds_our_configuration_and_the_state(
    run: int, tmp_path: Path, copy: FrozenFiles
) -> None:
    os.write(copy.state, b"state")
    frozen.put(run, b"config", copy.state, None)
    assert (tmp_path / "snapshot" / "config.json").read_bytes() == b"config"
    assert (tmp_path / "snapshot" / "state.json").read_bytes() == b"state"
    for _ in range(2):
        frozen.discard(run)
        assert [*tmp_path.iterdir()] == []


def test_a_directory_in_the_way_is_left_for_the_end(run: int, tmp_path: Path) -> None:
    os.close(frozen.make_directory(run, None))
    (tmp_path / "snapshot" / "state.json").mkdir()
    frozen.discard(run)
    with pytest.raises(FileExistsError):
        frozen.make_directory(run, None)


def test_the_console_is_a_pipe_that_can_be_read_before_anything_writes(run: int) -> None:
    console = frozen.make_console(run, None)
    assert os.read(console, 10) == b""
    os.close(console)
    with pytest.raises(FileExistsError):
        frozen.make_console(run, None)


def test_a_vmm_cannot_open_its_console_twice(run: int, tmp_path: Path) -> None:
    console = frozen.make_console(run, None)
    with (tmp_path / "hvc").open("wb") as own:
        frozen.bar_console(run)
        own.write(b"still")
    assert os.read(console, 10) == b"still"
    os.close(console)
    with pytest.raises(IsADirectoryError):
        (tmp_path / "hvc").open("wb")

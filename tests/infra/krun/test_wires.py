# SPDX-License-Identifier: Apache-2.0
"""A runner's wires: opened, handed over, and closed whatever happened to them."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import AsyncGenerator, Generator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.infra.krun.parts import UID, needs_root, spec_in
from tests.support.leaks import Leaks

from waggle.domain.errors import BootFailed, PortTaken
from waggle.domain.machine import MachineSpec
from waggle.infra.guest.forwarder import claim
from waggle.infra.krun.wires import SOCKET, Inherited, Wires, open_wires
from waggle.infra.shared.foreign import remove_directory

pytestmark = pytest.mark.anyio


@pytest.fixture
async def spec(tmp_path: Path) -> AsyncGenerator[MachineSpec]:
    """A machine's files, none of which may be left open."""
    watch = Leaks()
    yield spec_in(tmp_path)
    await watch.settle()
    assert not (tmp_path / "console.run").exists()


@contextlib.contextmanager
def opened(spec: MachineSpec) -> Generator[tuple[Wires, Inherited]]:
    """Yield wires as the hypervisor has them while it starts the runner."""
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        wires, inherited = open_wires(spec, ours, theirs)
        ours.pop_all()
        with contextlib.closing(wires):
            yield wires, inherited


async def test_both_ends_of_every_wire_belong_together(spec: MachineSpec) -> None:
    with opened(spec) as (wires, inherited):
        os.write(inherited.console, b"console")
        assert wires.console.read(100) == b"console"
        os.write(inherited.messages, b"messages")
        assert wires.messages.recv(100) == b"messages"
        wires.agent.send(b"agent")
        assert os.read(inherited.agent, 100) == b"agent"
        wires.renewal.send(b"renewal")
        assert os.read(inherited.renewal, 100) == b"renewal"
        assert wires.listener.getsockname() == ("127.0.0.1", spec.ssh_port)
        assert os.fstat(wires.directory).st_ino == wires.path.stat().st_ino
        assert stat.S_IMODE(wires.path.stat().st_mode) == 0o700


async def test_only_the_scratch_disk_can_be_written(spec: MachineSpec) -> None:
    with opened(spec) as (_, inherited):
        os.pwrite(inherited.scratch, b"x", 0)
        for name in ("kernel", "kit", "image", "identity"):
            descriptor = getattr(inherited, name)
            assert os.pread(descriptor, len(name), 0) == name.encode()
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.pwrite(descriptor, b"x", 0)


async def test_no_wire_is_inherited_by_another_child(spec: MachineSpec) -> None:
    """Other processes that the server starts meanwhile inherit nothing."""
    with opened(spec) as (wires, inherited):
        ours = (wires.console, wires.agent, wires.renewal, wires.messages, wires.listener)
        numbers = {end.fileno() for end in ours} | {wires.directory}
        theirs = {*inherited}
        assert not any(os.get_inheritable(number) for number in numbers | theirs)
        assert len(numbers | theirs) == 15


async def test_the_directory_is_removed_even_if_it_was_moved(spec: MachineSpec) -> None:
    """A machine that waited in a pool is moved like this."""
    home = spec.console_log.parent
    moved = home.with_name("moved")
    with opened(spec) as (wires, _):
        home.rename(moved)
        assert wires.path == moved / "console.run"
    assert not (moved / "console.run").exists()
    moved.rename(home)


@needs_root
async def test_the_runners_user_gets_access_only_where_it_needs_it(spec: MachineSpec) -> None:
    """Libkrun reopens its files. The server owns the disks, so that the user cannot share them."""
    with opened(replace(spec, uid=UID)) as (wires, inherited):
        for descriptor in (inherited.console, wires.directory):
            state = os.fstat(descriptor)
            assert (state.st_uid, state.st_gid) == (UID, UID)
        for descriptor, mode in ((inherited.scratch, 0o660), (inherited.identity, 0o640)):
            state = os.fstat(descriptor)
            assert (state.st_uid, state.st_gid) == (0, UID)
            assert stat.S_IMODE(state.st_mode) == mode
        for name in ("kernel", "kit", "image"):
            state = os.fstat(getattr(inherited, name))
            assert (state.st_uid, state.st_gid, stat.S_IMODE(state.st_mode)) == (0, 0, 0o644)


async def test_without_a_user_no_ownership_changes(spec: MachineSpec) -> None:
    before = {path.name: path.stat() for path in spec.kernel.parent.iterdir()}
    with opened(spec):
        for name, state in before.items():
            now = (spec.kernel.parent / name).stat()
            assert (now.st_uid, now.st_gid, now.st_mode) == (
                state.st_uid,
                state.st_gid,
                state.st_mode,
            )


@pytest.mark.parametrize("name", ["kernel", "kit", "image", "scratch", "identity"])
async def test_a_missing_file_is_named_and_nothing_is_left(spec: MachineSpec, name: str) -> None:
    (spec.kernel.parent / name).unlink()
    with pytest.raises(BootFailed, match=f"^{name} cannot be opened: No such file"), opened(spec):
        raise AssertionError("it opened nothing")
    claim(spec.ssh_port).close()


async def test_a_taken_port_raises_port_taken_and_leaves_nothing(spec: MachineSpec) -> None:
    with claim(spec.ssh_port), pytest.raises(PortTaken), opened(spec):
        raise AssertionError("two may not have it")


async def test_an_existing_directory_is_not_taken_over(spec: MachineSpec) -> None:
    """Nor is it removed: another process may be using it."""
    other = spec.console_log.with_suffix(".run")
    other.mkdir()
    (other / "kept").touch()
    with pytest.raises(FileExistsError), opened(spec):
        raise AssertionError("it is not ours")
    assert (other / "kept").exists()
    remove_directory(other)


async def test_close_removes_the_socket_and_frees_the_port(spec: MachineSpec) -> None:
    with opened(spec) as (wires, _):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(wires.path / SOCKET))
        assert (wires.path / SOCKET).is_socket()
    claim(spec.ssh_port).close()

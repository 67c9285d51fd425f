# SPDX-License-Identifier: Apache-2.0
"""Machines that resume from a template: quickly up, alike, and with different identities."""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs
from tests.support.harm import cut, flip
from tests.support.small_disk import needs_root, small_disk
from tests.support.vm import CACHE, Lab, command, environment, freezing_of, lines, root, sh

from waggle.domain.host import no_progress
from waggle.domain.programs.runtime import RuntimeName
from waggle.domain.snapshot import Template
from waggle.infra.rootfs.machine_disks import ScratchDisks
from waggle.infra.store.frozen_files import TemplateStore
from waggle.service.local.frozen.templates import Recipe, Templates
from waggle.service.local.guest import LocalGuest

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.usefixtures("leaks"),
    pytest.mark.timeout(300),
]
WARM = command("/.waggle/bin/busybox", "true")
DRIFT = 0.05
LOST = 3.0
"""Seconds that the clock of a machine loses below an emulated KVM that is short of time."""
"""Seconds by which a new machine's clock may differ."""
MANY = 4
AT_ONCE = 50
"""Of more copies than these; of fewer, an eighth."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TemplateStore:
    """The template store of the module; the first test makes its only template."""
    return TemplateStore(tmp_path_factory.mktemp("templates"))


@pytest.fixture
async def templated(lab: Lab, store: TemplateStore) -> AsyncGenerator[Lab]:
    """A lab whose machines resume from templates, which it makes when they are missing."""
    machines = freezing_of(lab)
    async with anyio.create_task_group() as tasks:
        recipe = Recipe(ScratchDisks(CACHE / "disks"), b"", dict.fromkeys(RuntimeName, WARM))
        lab.templates = Templates(store, machines, lab.launcher(), recipe, tasks)
        yield lab
        await lab.close()
        lab.templates.loaded.close()
        tasks.cancel_scope.cancel()


@pytest.fixture
async def alone(templated: Lab, tmp_path: Path) -> Lab:
    """A lab with its own copy of the template, which a test may damage."""
    template = await made(templated)
    assert isinstance(templated.templates, Templates)
    own = tmp_path / "templates"
    shutil.copytree(template.directory.parent, own)
    templated.templates.store = TemplateStore(own)
    return templated


async def made(lab: Lab) -> Template:
    """Return the template; boot a machine first to have it made if it is missing."""
    assert isinstance(lab.templates, Templates)
    if not (there := lab.templates.store.all()):
        guest = await lab.guest()
        assert "template" not in guest.booted_from
        with anyio.fail_after(120):
            await lab.templates.idle()
        await guest.destroy()
        there = lab.templates.store.all()
    (template,) = there
    return template


async def copies(lab: Lab, template: Template, count: int = MANY) -> list[LocalGuest]:
    guests: list[LocalGuest] = []

    async def one() -> None:
        guests.append(await lab.guest())

    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(one)
    assert {guest.booted_from.get("template") for guest in guests} == {template.key.id}
    return guests


async def test_concurrent_copies_have_different_identities(templated: Lab) -> None:
    guests = await copies(templated, await made(templated))
    drawn = "head -c 32 /dev/urandom | sha256sum; cat /proc/sys/kernel/random/uuid"
    ask = sh(f"{drawn}; cat /etc/machine-id /proc/sys/kernel/random/boot_id")
    identities = [lines(await guest.run(ask)) for guest in guests]
    for values in zip(*identities, strict=True):
        assert len(set(values)) == MANY, values
    for guest in guests:
        assert lines(await guest.run(sh("hostname; grep -c test-1 /etc/hosts"))) == ["test-1", "1"]


async def test_many_copies_have_different_identities(
    templated: Lab, pytestconfig: pytest.Config
) -> None:
    """Their random numbers, ids and keys all differ, and their clocks are right."""
    many = int(str(pytestconfig.getoption("copies")))
    await made(templated)
    host = templated.host()
    drawings: list[list[str]] = []
    turns = anyio.Semaphore(AT_ONCE if many > AT_ONCE else max(1, many // 8))
    drawn = sh("cat /proc/sys/kernel/random/uuid /etc/machine-id; head -c 32 /dev/urandom | md5sum")

    async def one() -> None:
        async with turns:
            described = environment()
            guest = await host.create(described, no_progress)
            try:
                assert "template" in guest.booted_from
                before = time.time()
                now = await guest.started.machine.agent.clock()
                assert isinstance(now, int)
                late = DRIFT if templated.hypervisor.name == "qemu" else LOST
                assert before - late <= now / 1e9 <= time.time() + DRIFT
                files = templated.environments / described.id
                host_key = (files / "known_hosts").read_text().split()[-1]
                own_key = (files / "ssh_key").read_text()
                drawings.append([*lines(await guest.run(drawn)), host_key, own_key])
            finally:
                await guest.destroy()

    async with anyio.create_task_group() as group:
        for _ in range(many):
            group.start_soon(one)
    for values in zip(*drawings, strict=True):
        assert len(set(values)) == many, values


async def test_copies_have_the_time_of_the_host(templated: Lab) -> None:
    for guest in await copies(templated, await made(templated), 2):
        before = time.time()
        clock = await guest.started.machine.agent.clock()
        assert before - DRIFT <= clock / 1e9 <= time.time() + DRIFT


async def test_copies_have_separate_disks_and_memory(templated: Lab) -> None:
    template = await made(templated)
    first, second = await copies(templated, template, 2)
    await root(first, "echo mine > /etc/mine; dd if=/dev/urandom of=/dev/shm/x bs=1M count=20")
    nothing = "test ! -e /etc/mine && test ! -e /dev/shm/x && echo none"
    assert await root(second, nothing) == "none\n"
    again = (await copies(templated, template, 1))[0]
    assert await root(again, nothing) == "none\n"


async def test_a_template_holds_no_keys(templated: Lab) -> None:
    """Its identity disk is empty and no key file is kept."""
    template = await made(templated)
    assert not any((template.directory / "identity.img").read_bytes())
    names = {entry.name for entry in template.directory.iterdir()}
    assert names == {"manifest.json", "ram", "state", "scratch.img", "identity.img"}


@pytest.mark.parametrize("name", ["state", "ram", "scratch.img"])
@pytest.mark.parametrize("harm", [cut, flip, Path.unlink])
async def test_a_damaged_template_is_replaced_by_a_boot(
    alone: Lab, name: str, harm: Callable[[Path], None]
) -> None:
    template = await made(alone)
    harm(template.directory / name)
    assert isinstance(alone.templates, Templates)
    guest = await alone.guest()
    assert "template" not in guest.booted_from
    assert lines(await guest.run(sh("echo works"))) == ["works"]


async def test_a_template_with_an_unloadable_state_is_dropped(alone: Lab) -> None:
    """Loading the state fails, and the machine boots instead."""
    template = await made(alone)
    (template.directory / "state").write_bytes(b"QEVM\0\0\0\3 and then nonsense" * 100)
    guest = await alone.guest()
    assert "template" not in guest.booted_from
    assert isinstance(alone.templates, Templates)
    assert template.key.id not in {kept.key.id for kept in alone.templates.store.all()}


async def test_an_interrupted_build_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    machines = freezing_of(lab)
    recipe = Recipe(ScratchDisks(CACHE / "disks"), b"", dict.fromkeys(RuntimeName, WARM))
    store = TemplateStore(tmp_path / "templates")
    async with anyio.create_task_group() as tasks:
        lab.templates = Templates(store, machines, lab.launcher(), recipe, tasks)
        await (await lab.guest()).destroy()
        tasks.cancel_scope.cancel()
    assert list(store.directory.iterdir()) == []
    assert not lab.ports.leased


@needs_root
async def test_a_build_on_a_full_disk_leaves_nothing_and_is_repeated_when_there_is_room(
    lab: Lab, tmp_path: Path
) -> None:
    machines = freezing_of(lab)
    recipe = Recipe(ScratchDisks(CACHE / "disks"), b"", dict.fromkeys(RuntimeName, WARM))
    with small_disk(tmp_path / "templates", 200) as disk:
        store = TemplateStore(disk.path)
        disk.fill(leave=16 << 20)  # its disks fit, its memory does not
        async with anyio.create_task_group() as tasks:
            lab.templates = Templates(store, machines, lab.launcher(), recipe, tasks)
            with capture_logs() as logs:
                await (await lab.guest()).destroy()
                with anyio.fail_after(120):
                    await lab.templates.idle()
            (warning,) = [line for line in logs if line["event"] == "template_put_off"]
            assert "no room in the directory of templates" in warning["error"]
            assert [path.name for path in disk.path.iterdir()] == ["ballast"]
            assert not lab.ports.leased
            disk.free()
            await (await lab.guest()).destroy()
            with anyio.fail_after(120):
                await lab.templates.idle()
            assert len(store.all()) == 1
            tasks.cancel_scope.cancel()


async def test_with_owners_kept_apart_a_template_serves_only_its_owner(
    templated: Lab, tmp_path: Path
) -> None:
    assert isinstance(templated.templates, Templates)
    shared = templated.templates
    async with anyio.create_task_group() as tasks:
        recipe = Recipe(
            ScratchDisks(CACHE / "disks"), b"", dict.fromkeys(RuntimeName, WARM), apart=True
        )
        own = TemplateStore(tmp_path / "templates")
        templated.templates = Templates(own, shared.hypervisor, templated.launcher(), recipe, tasks)

        async def template_of(owner: str) -> str | None:
            described = replace(environment(), owner=owner)
            guest = templated.adopt(await templated.host().create(described, no_progress))
            await templated.close()
            return guest.booted_from.get("template")

        assert await template_of("ann") is None
        with anyio.fail_after(120):
            await templated.templates.idle()
        (hers,) = own.all()
        assert hers.key.parts["owner"] == "ann"
        assert await template_of("ann") == hers.key.id
        assert await template_of("bob") is None
        templated.templates.loaded.close()
        tasks.cancel_scope.cancel()
    templated.templates = shared

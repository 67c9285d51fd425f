# SPDX-License-Identifier: Apache-2.0
"""Which machines resume from which template; `tests/vm/test_templates.py` has real machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import anyio
import anyio.abc
import pytest
from structlog.testing import capture_logs

from waggle.domain.image import BootImage
from waggle.domain.machine import (
    FreezingHypervisor,
    FrozenState,
    GuestDisks,
    Machine,
    MachineSpec,
    Resources,
)
from waggle.domain.programs import Command
from waggle.domain.programs.runtime import RuntimeName
from waggle.domain.snapshot import TemplateKey
from waggle.infra.host.memory import Memory
from waggle.infra.net.ports import PortAllocator
from waggle.infra.rootfs.machine_disks import ScratchDisks
from waggle.infra.ssh import EnvironmentKeys
from waggle.infra.store.frozen_files import TemplateStore
from waggle.service.local.blueprint import Blueprint, Launcher, MachineParts
from waggle.service.local.frozen.templates import Recipe, Templates
from waggle.service.local.frozen.turns import Turns

pytestmark = pytest.mark.anyio

SIZE = Resources(1, 128, 64)
WARM = Command(("true",), timeout=1.0, output_limit=1024)
VMM = {"vmm": "one"}


class Vmm:
    """A hypervisor whose newest program is `vmm`."""

    name = "one"

    def __init__(self) -> None:
        self.vmm = VMM
        self.loaded: list[str] = []

    def fingerprint(self, frozen: FrozenState | None = None) -> Mapping[str, str]:
        return {"vmm": frozen.vmm} if frozen else self.vmm

    def load(self, directory: Path, fingerprint: Mapping[str, str]) -> FrozenState:
        self.loaded.append(fingerprint["vmm"])
        return State(fingerprint["vmm"])

    async def boot(self, spec: MachineSpec) -> Machine:
        raise AssertionError("the launcher is pretended")


@dataclass
class State:
    vmm: str
    ram: int = 0
    state: int = 0
    is_on_disk: bool = False
    changed: None = None

    def save(self, directory: Path) -> None:
        for name in ("ram", "state"):
            (directory / name).write_bytes(b"x")

    def close(self) -> None:
        """Do nothing: it holds nothing."""


def templates(
    tmp_path: Path,
    *,
    apart: bool = False,
    warm: Command = WARM,
    tasks: anyio.abc.TaskGroup | None = None,
    turns: Turns | None = None,
    vmm: Vmm | None = None,
) -> Templates:
    recipe = Recipe(
        ScratchDisks(tmp_path), b"", dict.fromkeys(RuntimeName, warm), usual=None, apart=apart
    )
    hypervisor = cast("FreezingHypervisor", vmm or Vmm())
    return Templates(
        TemplateStore(tmp_path / "templates"),
        hypervisor,
        cast("Launcher", None),
        recipe,
        tasks,
        turns=turns,
    )


def blueprint(owner: str | None) -> Blueprint:
    image = BootImage("image", "sha256:1", Path("/nonexistent"), {})
    parts = MachineParts(RuntimeName.SHELL, image, Path("/kernel"), Path("/kit"), SIZE)
    return Blueprint(parts, {}, Path("/nonexistent"), owner)


def make(found: Templates, owner: str | None) -> None:
    key = TemplateKey.of(
        image="sha256:1",
        kernel="kernel",
        kit="kit",
        resources=SIZE,
        certificates=b"",
        warmed=WARM.argv,
        vmm=VMM,
        owner=owner,
    )
    with found.store.workspace() as work:
        for name in ("ram", "state", "scratch.img", "identity.img"):
            (work / name).write_bytes(b"x")
        found.store.place(key, work)


async def test_a_shared_template_is_used_for_every_owner(tmp_path: Path) -> None:
    found = templates(tmp_path, apart=False)
    make(found, None)
    for owner in ("ann", "bob", None):
        assert await found.find(blueprint(owner)) is not None


async def test_other_warm_up_code_makes_another_template(tmp_path: Path) -> None:
    make(templates(tmp_path), None)
    imports = replace(WARM, code=b"import pandas")
    assert await templates(tmp_path).find(blueprint(None)) is not None
    assert await templates(tmp_path, warm=imports).find(blueprint(None)) is None


async def test_with_owners_kept_apart_a_template_serves_only_its_owner(tmp_path: Path) -> None:
    """An owner can observe, through pages that two owners share, which of them the other reads."""
    found = templates(tmp_path, apart=True)
    make(found, None)
    make(found, "ann")
    hers = await found.find(blueprint("ann"))
    assert hers is not None
    assert hers.key.parts["owner"] == "ann"
    assert await found.find(blueprint("bob")) is None
    assert await found.find(blueprint(None)) is None, "a machine that waits may be anybody's"


async def test_a_template_for_which_there_is_no_memory_is_put_off(tmp_path: Path) -> None:
    """It is tried again when it is wanted again, before its machine boots."""
    looks: list[int] = []

    def look() -> Memory:
        looks.append(1)
        return Memory(1 << 30, 1 << 20)

    async with anyio.create_task_group() as tasks:
        found = templates(tmp_path, tasks=tasks, turns=Turns(look))
        for tries in (1, 2):
            found.want(blueprint(None))
            await found.idle()
            assert len(looks) == tries


async def test_a_template_is_resumed_by_the_program_that_made_it(tmp_path: Path) -> None:
    """Another may become the newest between the search for the template and its use."""

    class Changing(Vmm):
        def fingerprint(self, frozen: FrozenState | None = None) -> Mapping[str, str]:
            now, self.vmm = self.vmm, {"vmm": "two"}
            return now

    vmm = Changing()
    found = templates(tmp_path, vmm=vmm)
    make(found, None)
    async with found.frozen_for(blueprint(None)) as frozen:
        assert frozen is not None
    assert vmm.loaded == ["one"]
    found.loaded.close()


@pytest.mark.parametrize("made_by", ["one", "two"])
async def test_a_template_that_another_program_made_is_not_kept(
    tmp_path: Path, made_by: str
) -> None:
    """One may be added while its machine waits for its boot."""

    class Unwarmed(Templates):
        async def _warm(self, port: int, keys: EnvironmentKeys, runtime: RuntimeName) -> None:
            """Do nothing: the machine has no guest."""

    class Booted:
        @property
        def agent(self) -> Booted:
            return self

        async def ping(self) -> None:
            """Answer."""

        async def settle(self) -> None:
            """Do nothing: it has nothing to do."""

        async def freeze(self, disks: GuestDisks, *_: object) -> State:
            return State(made_by)

        async def stop(self) -> None:
            """Do nothing: it has no process."""

    class Boots(Vmm):
        async def boot(self, spec: MachineSpec) -> Machine:
            return cast("Machine", Booted())

    hypervisor = cast("FreezingHypervisor", Boots())
    launcher = Launcher(PortAllocator(10_930, 10_940), boot_timeout=1, uid_base=None)
    recipe = Recipe(ScratchDisks(tmp_path), b"", dict.fromkeys(RuntimeName, WARM))
    store = TemplateStore(tmp_path / "templates")
    async with anyio.create_task_group() as tasks:
        found = Unwarmed(store, hypervisor, launcher, recipe, tasks)
        found.want(blueprint(None))
        await found.idle()
        assert (await found.find(blueprint(None)) is not None) == (made_by == "one")
    assert len(store.all()) == (made_by == "one")


async def test_one_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    """A machine may boot although there is one: when the VMM of its copy was killed."""
    async with anyio.create_task_group() as tasks:
        found = templates(tmp_path, tasks=tasks)
        make(found, None)
        with capture_logs() as logs:
            found.want(blueprint(None))
            await found.idle()
        assert logs == [], "this one can make none"
        assert await found.find(blueprint(None)) is not None

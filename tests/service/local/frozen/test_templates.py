# SPDX-License-Identifier: Apache-2.0
"""Which machines resume from which template; `tests/vm/test_templates.py` has real machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import anyio
import anyio.abc
import pytest

from waggle.domain.image import BootImage
from waggle.domain.machine import FreezingHypervisor, Resources
from waggle.domain.programs import Command
from waggle.domain.programs.runtime import RuntimeName
from waggle.domain.snapshot import TemplateKey
from waggle.infra.host.memory import Memory
from waggle.infra.rootfs.machine_disks import ScratchDisks
from waggle.infra.store.frozen_files import TemplateStore
from waggle.service.local.blueprint import Blueprint, Launcher, MachineParts
from waggle.service.local.frozen.templates import Recipe, Templates
from waggle.service.local.frozen.turns import Turns

pytestmark = pytest.mark.anyio

SIZE = Resources(1, 128, 64)
WARM = Command(("true",), timeout=1.0, output_limit=1024)
VMM = {"vmm": "one"}


class Vmm:
    """A hypervisor that only has a name and a fingerprint."""

    name = "one"

    def fingerprint(self) -> Mapping[str, str]:
        return VMM


def templates(
    tmp_path: Path,
    *,
    apart: bool = False,
    warm: Command = WARM,
    tasks: anyio.abc.TaskGroup | None = None,
    turns: Turns | None = None,
) -> Templates:
    recipe = Recipe(
        ScratchDisks(tmp_path), b"", dict.fromkeys(RuntimeName, warm), usual=None, apart=apart
    )
    hypervisor = cast("FreezingHypervisor", Vmm())
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

# SPDX-License-Identifier: Apache-2.0
"""A lab for tests that need a machine but not its boot: busybox resumes from a template.

The template is made once, beside the images of `tests.support.vm`, and kept for later runs.
Machines of any other kind boot. Tests import the fixtures below like those of `tests.support.vm`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.support.vm import CACHE, Lab, command, environment

from waggle.domain.errors import WaggleError
from waggle.domain.hypervisor import can_freeze
from waggle.domain.image import BootImage
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.rootfs.machine_disks import ScratchDisks
from waggle.infra.shared.files import FileLock
from waggle.infra.ssh import new_keys
from waggle.infra.store.frozen_files import TemplateStore
from waggle.service.local.blueprint import Blueprint, MachineParts
from waggle.service.local.frozen.templates import Recipe, Templates
from waggle.service.local.start import identity_of

WARM = command("/.waggle/bin/busybox", "true")
BUILD_SECONDS = 120.0


@pytest.fixture(scope="session")
def template_store() -> TemplateStore:
    """One store for all tests of a process, so that a template is verified once."""
    return TemplateStore(CACHE / "templates")


@pytest.fixture
async def quick(
    lab: Lab, template_store: TemplateStore, busybox_image: BootImage
) -> AsyncGenerator[Lab]:
    """A lab whose small busybox machines do not boot, if machines can be frozen."""
    if not can_freeze(lab.hypervisor):
        yield lab
        return
    recipe = Recipe(ScratchDisks(CACHE / "disks"), b"", dict.fromkeys(RuntimeName, WARM))
    templates = Templates(template_store, lab.hypervisor, lab.launcher(), recipe, None)
    with contextlib.suppress(WaggleError, OSError):  # machines boot
        async with FileLock(CACHE / "templates.lock", timeout=BUILD_SECONDS):
            await templates.ensure(_blueprint(lab, busybox_image))
    lab.templates = templates
    yield lab
    await lab.close()
    templates.loaded.close()


def _blueprint(lab: Lab, image: BootImage) -> Blueprint:
    """Return the blueprint of a machine of `lab.guest()`."""
    wanted = environment()
    parts = MachineParts(wanted.runtime, image, lab.parts.kernel, lab.parts.kit, wanted.resources)
    identity = identity_of(
        *(image, new_keys(), wanted.name, wanted.network), machine=wanted.id, certificates=b""
    )
    return Blueprint(parts, identity, Path("/nonexistent"))

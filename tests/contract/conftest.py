# SPDX-License-Identifier: Apache-2.0
"""Fixtures: `subject` runs a test on every hypervisor, `real` only on those with a guest inside."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.contract.subjects import (
    Running,
    Subject,
    fake_subject,
    real_hypervisors,
    real_subject,
)
from tests.support.vm import Parts, busybox_image, guest_parts, leaks

from waggle.domain.image import BootImage
from waggle.domain.machine import Resources

__all__ = ["busybox_image", "guest_parts", "leaks", "real", "running", "subject"]
REAL = [pytest.param(name, marks=pytest.mark.vm) for name in real_hypervisors()]


@dataclass(frozen=True, slots=True)
class Ingredients:
    """The parts of a machine with a guest inside."""

    parts: Parts
    image: BootImage


@pytest.fixture
def ingredients(request: pytest.FixtureRequest) -> Ingredients | None:
    """Return None for the fake: its tests need no kernel and no kit."""
    if "fake" in request.node.callspec.params.values():
        return None
    parts: Parts = request.getfixturevalue("guest_parts")
    image: BootImage = request.getfixturevalue("busybox_image")
    return Ingredients(parts, image)


@pytest.fixture(params=[*REAL, "fake"])
async def subject(
    request: pytest.FixtureRequest, ingredients: Ingredients | None, leaks: object, tmp_path: Path
) -> AsyncGenerator[Subject]:
    if ingredients is None:
        made = fake_subject(tmp_path)
    else:
        made = await real_subject(request.param, tmp_path, ingredients.parts, ingredients.image)
    yield made
    await made.close()


@pytest.fixture(params=REAL)
async def real(
    request: pytest.FixtureRequest, ingredients: Ingredients, leaks: object, tmp_path: Path
) -> AsyncGenerator[Subject]:
    made = await real_subject(request.param, tmp_path, ingredients.parts, ingredients.image)
    yield made
    await made.close()


@pytest.fixture(scope="module", params=REAL)
async def running(
    request: pytest.FixtureRequest,
    guest_parts: Parts,
    busybox_image: BootImage,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncGenerator[Running]:
    """Boot one machine for all tests that only look at it."""
    tmp = tmp_path_factory.mktemp("running")
    made = await real_subject(request.param, tmp, guest_parts, busybox_image)
    case = await made.case(Resources(cpus=2, memory_mib=320, disk_mib=96))
    yield Running(case, await made.boot(case))
    await made.close()

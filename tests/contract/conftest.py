# SPDX-License-Identifier: Apache-2.0
"""Fixtures: `subject` runs a test on every hypervisor, `real` only on those with a guest inside.

Tests that are marked `both_kernels` also run on QEMU with the full guest kernel.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.contract.subjects import (
    Running,
    Subject,
    fake_subject,
    full_subject,
    real_hypervisors,
    real_subject,
)
from tests.support.vm import Parts, busybox_image, full_parts, guest_parts, leaks

from waggle.domain.image import BootImage
from waggle.domain.machine import Resources

__all__ = [
    "busybox_image",
    "full_parts",
    "guest_parts",
    "kind",
    "leaks",
    "real",
    "running",
    "subject",
]
FULL = "full"
REAL = [pytest.param(name, marks=pytest.mark.vm) for name in (*real_hypervisors(), FULL)]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the full kernel need not promise a second time."""
    left = [
        item
        for item in items
        if isinstance(item, pytest.Function)
        and hasattr(item, "callspec")
        and FULL in item.callspec.params.values()
        and item.path.is_relative_to(Path(__file__).parent)
        and item.get_closest_marker("both_kernels") is None
    ]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


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
    is_full = FULL in request.node.callspec.params.values()
    parts: Parts = request.getfixturevalue("full_parts" if is_full else "guest_parts")
    image: BootImage = request.getfixturevalue("busybox_image")
    return Ingredients(parts, image)


@pytest.fixture(params=[*REAL, "fake"])
async def subject(
    request: pytest.FixtureRequest, ingredients: Ingredients | None, leaks: object, tmp_path: Path
) -> AsyncGenerator[Subject]:
    if ingredients is None:
        made = fake_subject(tmp_path)
    else:
        made = await _made(request.param, ingredients, tmp_path)
    yield made
    await made.close()


async def _made(name: str, ingredients: Ingredients, tmp: Path) -> Subject:
    if name == FULL:
        return await full_subject(tmp, ingredients.parts, ingredients.image)
    return await real_subject(name, tmp, ingredients.parts, ingredients.image)


@pytest.fixture(params=REAL)
async def real(
    request: pytest.FixtureRequest, ingredients: Ingredients, leaks: object, tmp_path: Path
) -> AsyncGenerator[Subject]:
    made = await _made(request.param, ingredients, tmp_path)
    yield made
    await made.close()


@pytest.fixture(scope="module", params=REAL)
def kind(request: pytest.FixtureRequest) -> tuple[str, Parts]:
    """Return a hypervisor's name and the parts of its machines, which only a plain fixture asks."""
    is_full = request.param == FULL
    return request.param, request.getfixturevalue("full_parts" if is_full else "guest_parts")


@pytest.fixture(scope="module")
async def running(
    kind: tuple[str, Parts],
    busybox_image: BootImage,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncGenerator[Running]:
    """Boot one machine for all tests that only look at it."""
    name, parts = kind
    tmp = tmp_path_factory.mktemp("running")
    made = await _made(name, Ingredients(parts, busybox_image), tmp)
    case = await made.case(Resources(cpus=2, memory_mib=320, disk_mib=96))
    yield Running(case, await made.boot(case))
    await made.close()

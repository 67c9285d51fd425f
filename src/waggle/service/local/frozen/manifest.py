# SPDX-License-Identifier: Apache-2.0
"""What a frozen machine is made of, as facts of its manifest, and back. Pure but for one look.

Used by `moments` only. Files are named without their directories, so that a moment can move to
another machine that has the same files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from waggle.domain.environment import Resources
from waggle.domain.image import BootImage
from waggle.domain.programs.runtime import RuntimeName
from waggle.service.local.blueprint import MadeOf


def to_facts(made_of: MadeOf, vmm: Mapping[str, str]) -> dict[str, object]:
    """For a manifest. `vmm` is what the state is locked to."""
    image = made_of.image
    return {
        "runtime": made_of.runtime.value,
        "image": {
            "reference": image.reference,
            "digest": image.digest,
            "disk": image.disk.name,
            "variables": dict(image.variables),
            "user": image.user,
            "directory": image.directory,
            "shell": image.shell,
        },
        "kernel": made_of.kernel.name,
        "kit": made_of.kit.name,
        "resources": {
            "cpus": made_of.resources.cpus,
            "memory_mib": made_of.resources.memory_mib,
            "disk_mib": made_of.resources.disk_mib,
        },
        "vmm": dict(vmm),
    }


@dataclass(frozen=True, slots=True)
class Shelves:
    """The directories of disks, kernels and kits."""

    disks: Path
    kernels: Path
    kits: Path


def from_facts(facts: Mapping[str, object], shelves: Shelves) -> MadeOf:
    """The other way. Raises KeyError, TypeError, AttributeError or ValueError."""
    image = cast("dict[str, object]", facts["image"])
    resources = cast("dict[str, int]", facts["resources"])
    variables = cast("dict[str, object]", image["variables"])
    return MadeOf(
        RuntimeName(str(facts["runtime"])),
        BootImage(
            reference=str(image["reference"]),
            digest=str(image["digest"]),
            disk=shelves.disks / _plain(image["disk"]),
            variables={str(name): str(value) for name, value in variables.items()},
            user=str(image["user"]),
            directory=str(image["directory"]),
            shell=str(image["shell"]),
        ),
        shelves.kernels / _plain(facts["kernel"]),
        shelves.kits / _plain(facts["kit"]),
        Resources(**{name: int(resources[name]) for name in ("cpus", "memory_mib", "disk_mib")}),
    )


def vmm_of(facts: Mapping[str, object]) -> dict[str, str]:
    """What the state is locked to. Raises as `from_facts` does."""
    told = cast("dict[object, object]", facts["vmm"])
    return {str(name): str(value) for name, value in told.items()}


def _plain(name: object) -> str:
    text = str(name)
    if "/" in text or text in ("", ".", ".."):
        raise ValueError(f"{text!r} is not a file's name")
    return text

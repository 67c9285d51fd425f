# SPDX-License-Identifier: Apache-2.0
"""Versions of VMMs and the processor architectures that their programs are for.

Used by the clients, which know since when a method exists, by `binaries`, and by what shows
programs to operators. Knows no files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

_NUMBER = "([0-9]{1,6})"
_VERSION = re.compile(
    rf"\s*v?{_NUMBER}\.{_NUMBER}(?:\.{_NUMBER})?(?:[-+][0-9A-Za-z.+-]{{1,64}})?\s*"
)


class Vmm(StrEnum):
    """A VMM with an HTTP API."""

    FIRECRACKER = "firecracker"
    CLOUD_HYPERVISOR = "cloud-hypervisor"


TITLES = {Vmm.FIRECRACKER: "Firecracker", Vmm.CLOUD_HYPERVISOR: "Cloud Hypervisor"}
"""Their names in messages."""


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A release: `1.12.1`, or `48.0` where there are two numbers."""

    major: int
    minor: int = 0
    patch: int = 0

    @classmethod
    def parse(cls, text: str) -> Version:
        """Read `1.12.1`, `v48.0` or `v1.13.0-dev`. Raises ValueError for anything else."""
        found = _VERSION.fullmatch(text[:100])
        if found is None:
            raise ValueError("this is no version")
        return cls(*(int(number or 0) for number in found.groups()))

    def __str__(self) -> str:
        """Return it as the directories and messages name it, always with three numbers."""
        return f"{self.major}.{self.minor}.{self.patch}"


OLDEST = {Vmm.FIRECRACKER: Version(1, 10), Vmm.CLOUD_HYPERVISOR: Version(48)}
"""The oldest supported versions; all newer ones are."""
TESTED = {Vmm.FIRECRACKER: Version(1, 12, 1), Vmm.CLOUD_HYPERVISOR: Version(53)}
"""The newest versions whose programs ran waggle's tests."""

UNTESTED_MEND = "If its machines fail, add an older one, and remove this: waggle vmm rm."


def untested(vmm: Vmm, version: Version) -> str:
    """Say that a version is newer than those that were tested; empty if it is not. Pure.

    A later patch of what was tested counts as tested.
    """
    newest = TESTED[vmm]
    if (version.major, version.minor) <= (newest.major, newest.minor):
        return ""
    return f"newer than what was tested ({newest})"

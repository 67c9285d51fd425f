# SPDX-License-Identifier: Apache-2.0
"""Fixtures for machines, booted or copied; see `tests.support.vm` and `tests.support.quick`."""

from tests.support.quick import quick, template_store
from tests.support.vm import (
    busybox_image,
    guest,
    guest_parts,
    lab,
    leaks,
    python_image,
    shared_lab,
)

__all__ = [
    "busybox_image",
    "guest",
    "guest_parts",
    "lab",
    "leaks",
    "python_image",
    "quick",
    "shared_lab",
    "template_store",
]

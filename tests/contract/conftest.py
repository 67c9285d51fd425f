# SPDX-License-Identifier: Apache-2.0
"""The fixtures that boot machines; see `tests.support.vm`."""

from tests.support.vm import (
    busybox_image,
    guest,
    guest_parts,
    lab,
    leaks,
    python_image,
    shared_lab,
)

__all__ = ["busybox_image", "guest", "guest_parts", "lab", "leaks", "python_image", "shared_lab"]

# SPDX-License-Identifier: Apache-2.0
"""Moves files in memory, so that both files together hardly take more than one of them.

Used for the memory of machines. Blocks; knows no VMM.
"""

from __future__ import annotations

import ctypes
import os
from functools import partial
from typing import Final

from waggle.infra.shared.files import copy_changed, copy_data

_KEEP_SIZE, _PUNCH_HOLE = 1, 2
"""See fallocate(2)."""
_fallocate: Final = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def move_data(source: int, target: int, size: int | None = None) -> None:
    """Do what `files.copy_data` does, and free in `source` what was copied, MiB by MiB.

    `source` must be open for writing, and nobody may need what is in it. Raises OSError; some of it
    is gone then.
    """
    copy_data(source, target, size, after=partial(_free, source))


def move_changed(base: int, changes: int, target: int, size: int) -> None:
    """Do what `files.copy_changed` does, and free in `changes` as `move_data` does."""
    copy_changed(base, changes, target, size, after=partial(_free, changes))


def _free(descriptor: int, start: int, length: int) -> None:
    if _fallocate(descriptor, _PUNCH_HOLE | _KEEP_SIZE, start, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

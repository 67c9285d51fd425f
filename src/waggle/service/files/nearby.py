# SPDX-License-Identifier: Apache-2.0
"""Tell what is near a path that does not exist, so that the next call can name one that does.

Used by the services for files. It asks the guest, for a bounded time, and never fails by itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import anyio

from waggle.domain.errors import FileNotFound, FileRefused, WaggleError
from waggle.domain.files.filesystem import EMPTY_PLACES, parents, told
from waggle.domain.host import Guest

SECONDS: Final = 5.0


@asynccontextmanager
async def nearby(guest: Guest, path: str) -> AsyncGenerator[None]:
    """Add to a FileNotFound of the block what there is in the nearest directory of `path`."""
    try:
        yield
    except FileNotFound as error:
        if words := await _near(guest, path):
            raise FileNotFound(f"{error.message} {words}", hint="") from error
        raise


async def _near(guest: Guest, path: str) -> str:
    """What is told of the nearest directory; empty when the guest does not tell."""
    with anyio.move_on_after(SECONDS), contextlib.suppress(WaggleError):
        for directory in parents(path):
            if directory in EMPTY_PLACES:
                directory = await guest.home()  # noqa: PLW2901 - what is told in its place
            try:
                return told(path, await guest.list_files(directory))
            except FileNotFound:
                continue
            except FileRefused as error:
                return error.message
    return ""

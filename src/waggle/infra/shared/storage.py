# SPDX-License-Identifier: Apache-2.0
"""A full or read-only disk as an error that can be shown, also to clients: it names no path.

Used by `load`, `export`, `registry.pull` and the CLI.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from waggle.domain.errors import DiskFull, ImageUnavailable
from waggle.infra.shared.disk_room import full, is_full


@contextlib.contextmanager
def storage_errors(what: str, where: str = "the image cache") -> Generator[None]:
    """Turn an OSError of the block into ImageUnavailable; `what` is what could not be done.

    A full disk is DiskFull, which names `where` that is.
    """
    try:
        yield
    except OSError as error:
        if is_full(error):
            found = full(error, where)
            raise DiskFull(f"{what}. {found.message}", hint=found.hint) from error
        raise ImageUnavailable(
            f"{what}: {error.strerror or 'the system refused'}.",
            hint="Check the free space and the permissions.",
        ) from error

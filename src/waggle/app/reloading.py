# SPDX-License-Identifier: Apache-2.0
"""What a server does at SIGHUP: it reads the operator's files again and reopens its audit log.

Used by `waggle.app.serving`. A server also notices changes by itself, a second after the next use;
this does it at once, and says what is wrong. A file that cannot be used leaves the last one in use.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import structlog

from waggle.app.supervisor import Supervisor

log = structlog.get_logger(__name__)
Reread = Callable[[], str | None]
"""Reads a file again, and returns why it cannot be used as it is now."""


async def reload(
    supervisor: Supervisor,
    files: Iterable[Reread],
    reopen: Callable[[], None] | None,
    status: Callable[[], Awaitable[str]],
) -> None:
    """Read `files` again and `reopen` the audit log. `status` is the server's if all is well."""
    await supervisor.reloading()
    if reopen is not None:
        reopen()
    problems = [problem for reread in files if (problem := reread())]
    log.info("reloaded", problems=problems)
    await supervisor.ready("; ".join([await status(), *problems]))

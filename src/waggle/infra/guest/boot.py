# SPDX-License-Identifier: Apache-2.0
"""The common part of every boot: from a VMM that was just started to a guest that is ready.

Or to the reason why it is not. Used by the hypervisors; knows none of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from waggle.domain.errors import BootFailed

log = structlog.get_logger(__name__)


class VmmKilled(BootFailed):
    """The machine's process was killed before the guest worked: its parts may be good."""

    default_hint = (
        "Try again. Somebody on the server killed it, often the kernel for lack of memory: the "
        "operator finds that in the server's kernel log (dmesg)."
    )


class KernelFault(BootFailed):
    """The guest's kernel had a fault before the guest was ready; another try may succeed."""


_FAULT: Final = "Fatal exception"
_TAIL_SHOWN: Final = 12


class Booting(Protocol):
    """A machine whose VMM runs, before anything else may use it."""

    async def connect(self) -> None:
        """Start to listen to the machine."""
        ...

    async def until_ready(self) -> str | None:
        """Wait for the guest; return the cause if it will not be ready."""
        ...

    async def was_killed(self) -> bool:
        """Return whether somebody has killed its VMM."""
        ...

    async def stop(self) -> None:
        """See `domain.machine.Machine.stop`."""
        ...

    def console_tail(self) -> Sequence[str]:
        """See `domain.machine.Machine.console_tail`."""
        ...


async def until_booted(machine: Booting, timeout: float) -> None:
    """Return when the guest is ready; otherwise stop the machine and raise.

    `timeout` is seconds. Raises BootFailed, KernelFault or VmmKilled with the cause and the
    console's last lines; the guest may write what makes it a KernelFault. A cancelled boot stops
    the machine, too.
    """
    try:
        try:
            async with asyncio.timeout(timeout):
                await machine.connect()
                cause = await machine.until_ready()
        except TimeoutError:
            cause = f"the guest was not ready after {timeout:g} s"
        if cause is not None:
            kind = await _kind(machine, cause)
            await machine.stop()  # the console is complete only then
            raise _failure(kind, cause, machine.console_tail())
    except BaseException:
        await machine.stop()
        raise


async def _kind(machine: Booting, cause: str) -> type[BootFailed]:
    if await machine.was_killed():
        return VmmKilled
    return KernelFault if _FAULT in cause else BootFailed


def _failure(kind: type[BootFailed], cause: str, console: Sequence[str]) -> BootFailed:
    # What a kernel prints after the cause of its panic is about itself.
    end = next((at for at, line in enumerate(console, 1) if line == cause), len(console))
    lines = console[:end][-_TAIL_SHOWN:]
    log.warning("boot_failed", cause=cause, console=lines)
    shown = "\n".join(lines) or "(nothing)"
    return kind(f"The machine did not boot: {cause}. Its console's last lines:\n{shown}\n")

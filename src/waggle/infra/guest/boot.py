# SPDX-License-Identifier: Apache-2.0
"""From a VMM that was just started to a guest that is ready, or to the reason why not.

The part of `domain.machine.Hypervisor.boot` that is the same for every hypervisor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog

from waggle.domain.errors import BootFailed

log = structlog.get_logger(__name__)
_TAIL_SHOWN = 12
_KERNEL_FAULT = "Fatal exception"
"""How a kernel ends that met a fault of its own, and not the end of its first process."""


class KernelFault(BootFailed):
    """The guest's kernel had a fault before the guest was ready: another try may well succeed."""


class Booting(Protocol):
    """A machine whose VMM runs, before anybody else may use it."""

    async def connect(self) -> None:
        """Start to listen to it."""
        ...

    async def until_ready(self) -> str | None:
        """Wait for the guest; the cause when it will not be ready."""
        ...

    async def stop(self) -> None:
        """See `domain.machine.Machine.stop`."""
        ...

    def console_tail(self) -> Sequence[str]:
        """See `domain.machine.Machine.console_tail`."""
        ...


async def until_booted(machine: Booting, timeout: float) -> None:
    """Return when the guest is ready. Otherwise stop the machine and raise.

    `timeout` is seconds. Raises BootFailed with the cause and the console's last lines, and as a
    KernelFault when that is what it was. A cancelled boot stops the machine, too.
    """
    try:
        try:
            async with asyncio.timeout(timeout):
                await machine.connect()
                cause = await machine.until_ready()
        except TimeoutError:
            cause = f"the guest was not ready after {timeout:g} s"
        if cause is not None:
            await machine.stop()  # the console is complete only then
            raise _failure(cause, machine.console_tail())
    except BaseException:
        await machine.stop()
        raise


def _failure(cause: str, console: Sequence[str]) -> BootFailed:
    lines = console[-_TAIL_SHOWN:]
    log.warning("boot_failed", cause=cause, console=lines)
    shown = "\n".join(lines) or "(nothing)"
    kind = KernelFault if _KERNEL_FAULT in cause else BootFailed
    return kind(f"The machine did not boot: {cause}. Its console's last lines:\n{shown}\n")

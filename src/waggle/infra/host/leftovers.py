# SPDX-License-Identifier: Apache-2.0
"""VMMs that no server has any more. The composition root ends them before a server leases ports.

A VMM that its jailer gave another user does not notice the end of its server if its guard is killed
at the same instant. A server that comes later kills those of its records and control groups; here
are the others, known by their user: `base` plus the port, whose lock everyone holds who has such a
machine. Knows no hypervisor.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import Final

_END_SECONDS: Final = 2.0
"""How long all of them may take to end."""


def end_leftovers(
    base: int, ports: Container[int], is_held: Callable[[int], bool], *, adopter: int = 1
) -> list[int]:
    """Kill the VMMs of ports that nobody holds; return their numbers. Blocks until they are dead.

    One of them has lost its guard, so its parent is the `adopter`, and is the first process of a
    namespace of processes: a machine of a server whose locks are not seen here, because it has
    another network namespace, has its guard.
    """
    killed: dict[int, int] = {}
    with contextlib.ExitStack() as held:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    port = _user_of_orphan(entry, adopter) - base
                    if port not in ports or is_held(port):
                        continue
                    process = os.pidfd_open(int(entry.name))
                    held.callback(os.close, process)
                    if _user_of_orphan(entry, adopter) - base == port:  # and not another by now
                        signal.pidfd_send_signal(process, signal.SIGKILL)
                        killed[int(entry.name)] = process
        _until_dead([*killed.values()])
    return [*killed]


def _user_of_orphan(entry: Path, adopter: int) -> int:
    """Return the user of a process, or 0 if it is no VMM without a guard. Raises OSError."""
    text = (entry / "status").read_text("utf-8", "replace")  # of a name, any bytes
    rows = (line.partition(":") for line in text.splitlines())
    status = {name: values.split() for name, _, values in rows}
    numbers = status.get("NSpid", [])
    is_first = len(numbers) > 1 and numbers[-1] == "1" and status["State"][0] != "Z"
    return int(status["Uid"][0]) if is_first and status["PPid"] == [str(adopter)] else 0


def _until_dead(processes: list[int]) -> None:
    deadline = time.monotonic() + _END_SECONDS
    for process in processes:
        waiting = select.poll()
        waiting.register(process, select.POLLIN)
        waiting.poll(max(0.0, deadline - time.monotonic()) * 1000)

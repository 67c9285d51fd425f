# SPDX-License-Identifier: Apache-2.0
"""A stand-in for a server, to be killed: boots a machine, prints its identity, waits forever.

Run as `python -m tests.vm.boot_and_wait DIRECTORY KERNEL KIT IMAGE`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import structlog
from tests.support.vm import BUSYBOX, Images, Lab, Parts, machines

from waggle.domain.image import BootImage


async def main(directory: Path, kernel: Path, kit: Path, image: Path) -> None:
    known = Images({BUSYBOX: BootImage(BUSYBOX, "sha256:0", image, {})})
    lab = Lab(Parts(kernel, kit), directory, known, machines())
    guest = await lab.guest()
    machine = guest.machine
    sys.stdout.write(f"{machine.pid} {machine.started} {machine.boot_id}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    # Standard output carries only the identity of the process.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    asyncio.run(main(*(Path(word) for word in sys.argv[1:5])))

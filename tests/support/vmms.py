# SPDX-License-Identifier: Apache-2.0
"""The VMMs that run on this machine, whichever hypervisor they are of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from waggle.config import Settings

_USER = re.compile(rb"(?m)^Uid:\t(\d+)")
_FORWARD = re.compile(rb"hostfwd=tcp:127\.0\.0\.2:(\d+)-")
"""QEMU's argument; a server that does not run as root gives its VMMs no users of their own."""


def running() -> Iterator[tuple[int, int]]:
    """Yield the pid and SSH port of each. Its user tells the port, or QEMU's arguments do."""
    base = int(Settings.model_fields["vm_uid_base"].default)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status, argv = (entry / "status").read_bytes(), (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it ended meanwhile
            user = _USER.search(status)
            if argv and user and int(user[1]) > base:  # a zombie has no arguments
                yield int(entry.name), int(user[1]) - base
            elif found := _FORWARD.search(argv):
                yield int(entry.name), int(found[1])

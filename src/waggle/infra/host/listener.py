# SPDX-License-Identifier: Apache-2.0
"""Find what a local server has open, by the port it listens on, from /proc.

Called by `waggle shell`, which needs the data directory of a server that it knows by its address
only. The kernel knows it surely and at once: nothing has to be recorded, nothing can be stale, and
it tells nobody but the server's own user and root. Knows nothing of servers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_LISTEN = "0A"


def held_by_listeners(port: int, name: str, proc: Path = _PROC) -> list[Path]:
    """The files called `name` that processes which listen on this TCP port have open.

    None of a process that may not be looked at, and none where there is no /proc of Linux.
    """
    sockets = {f"socket:[{inode}]" for inode in _listening(port, proc)}
    found: list[Path] = []
    for process in proc.iterdir() if sockets else ():
        opened = set(_opened(process / "fd")) if process.name.isdigit() else set[str]()
        if not sockets.isdisjoint(opened):
            found += [Path(each) for each in opened if Path(each).name == name]
    return found


def _listening(port: int, proc: Path) -> Iterator[str]:
    """The inodes of sockets that listen on the port."""
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text("ascii").splitlines()[1:]
        except OSError:
            continue  # no such family, or no /proc of Linux
        for line in lines:
            words = line.split()
            if words[3] == _LISTEN and int(words[1].rpartition(":")[2], 16) == port:
                yield words[9]


def _opened(directory: Path) -> Iterator[str]:
    """What the links of /proc/PID/fd say; nothing of a process that is somebody else's."""
    with contextlib.suppress(OSError):
        for link in directory.iterdir():
            with contextlib.suppress(OSError):
                yield str(link.readlink())

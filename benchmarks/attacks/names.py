# SPDX-License-Identifier: Apache-2.0
"""A name server on loopback, and a way to start a server process that uses only it.

It answers names that begin with `good` and that of `upstream`, and ignores all others. Needs root:
the process gets its own mount namespace, in which another file is mounted over /etc/resolv.conf.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Generator
from pathlib import Path

from tests.infra.net import dead_names
from tests.infra.net.name_server import NameServer, Reply

from benchmarks.attacks import upstream

ADDRESS = "127.77.0.1"
_MOUNT = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'


def can_be_asked() -> bool:
    """Whether this user can redirect a process to the name server."""
    return os.geteuid() == 0


@contextlib.contextmanager
def name_server(directory: Path) -> Generator[tuple[str, ...]]:
    """Serve for the length of the block; yield the words before the command that is to use it.

    Without root there are no words and no name server.
    """
    if not can_be_asked():
        yield ()
        return
    file = directory / "resolv.conf"
    file.write_text(f"nameserver {ADDRESS}\n", "ascii")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((ADDRESS, 53))
        thread = threading.Thread(target=_serve, args=(server,), daemon=True)
        thread.start()
        try:
            yield ("unshare", "--mount", "sh", "-c", _MOUNT, str(file))
        finally:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def reply(name: str) -> Reply | None:
    """Return the answer for a name."""
    if name == upstream.HOST:
        return Reply(addresses=[upstream.ADDRESS])
    return dead_names.reply(name)


def _serve(server: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError, IndexError):  # the last question is empty
        NameServer(reply).serve(server)

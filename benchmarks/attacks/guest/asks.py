# SPDX-License-Identifier: Apache-2.0
"""Requests hosts from the guest's proxy endlessly: `asks.py HOST THREADS`, runs in the guest.

A `#` in HOST becomes another number each time.
"""

from __future__ import annotations

import itertools
import socket
import sys
import threading
import time
from collections.abc import Iterator


def ask(host: str, numbers: Iterator[int]) -> None:
    for number in numbers:
        name = host.replace("#", str(number))
        try:
            with socket.create_connection(("127.0.0.1", 3128), timeout=60) as proxy:
                proxy.sendall(f"CONNECT {name}:443 HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
                proxy.recv(1000)
        except OSError:
            time.sleep(0.1)


def main(host: str, threads: int) -> None:
    numbers = itertools.count()
    for _ in range(threads):
        threading.Thread(target=ask, args=(host, numbers)).start()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

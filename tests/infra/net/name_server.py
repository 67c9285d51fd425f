# SPDX-License-Identifier: Apache-2.0
"""A name server for a network namespace, over UDP and TCP, and the files that lead to it.

Programs that tests start with `unshare --map-root-user --mount --net` use it, so that the C
library's own resolver asks it.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

A, CNAME, AAAA = 1, 5, 28
OK, SERVFAIL, NXDOMAIN = 0, 2, 3
UDP_SIZE = 512
SET_FLAGS, UP = 0x8914, 1


@dataclass(frozen=True)
class Reply:
    """The answer to a question, sent after `delay` seconds."""

    code: int = OK
    addresses: Sequence[str] = ()
    aliases: Sequence[str] = ()
    """Each is the canonical name of the one before; the last one has the addresses."""
    delay: float = 0.0


@dataclass
class NameServer:
    """Answers the questions for which `reply` returns something; `questions` has them all."""

    reply: Callable[[str], Reply | None]
    questions: list[tuple[str, int, str]] = field(default_factory=list[tuple[str, int, str]])

    def start(self) -> None:
        """Serve on 127.0.0.1:53 until the process ends."""
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 53))
        tcp = socket.create_server(("127.0.0.1", 53))
        threading.Thread(target=self.serve, args=(udp,), daemon=True).start()
        threading.Thread(target=self._streams, args=(tcp,), daemon=True).start()

    def serve(self, udp: socket.socket) -> None:
        """Answer over a socket until it is shut down, which raises OSError or ValueError."""
        while True:
            question, sender = udp.recvfrom(UDP_SIZE)
            if (found := self._answer(question, "udp")) is not None:
                delay, answer = found
                if len(answer) > UDP_SIZE:
                    cut = bytes([answer[2] | 2])  # truncated: ask again over TCP
                    answer = answer[:2] + cut + answer[3:6] + bytes(6) + question[12:]
                self._later(delay, lambda a=answer, s=sender: udp.sendto(a, s))

    def _streams(self, tcp: socket.socket) -> None:
        while True:
            stream, _ = tcp.accept()
            threading.Thread(target=self._stream, args=(stream,), daemon=True).start()

    def _stream(self, stream: socket.socket) -> None:
        with stream, stream.makefile("rb") as questions:
            while len(size := questions.read(2)) == 2:
                found = self._answer(questions.read(int.from_bytes(size, "big")), "tcp")
                if found is not None:
                    stream.sendall(len(found[1]).to_bytes(2, "big") + found[1])

    def _later(self, delay: float, send: Callable[[], object]) -> None:
        if not delay:
            send()
            return
        timer = threading.Timer(delay, send)
        timer.daemon = True
        timer.start()

    def _answer(self, question: bytes, over: str) -> tuple[float, bytes] | None:
        name, end = read_name(question)
        kind = int.from_bytes(question[end : end + 2], "big")
        self.questions.append((name, kind, over))
        reply = self.reply(name.lower())
        if reply is None:
            return None
        records = [
            record(owner, CNAME, write_name(alias))
            for owner, alias in zip([name, *reply.aliases], reply.aliases, strict=False)
        ]
        for text in reply.addresses:
            address = ip_address(text)
            if kind == (A if address.version == 4 else AAAA):
                records.append(record([name, *reply.aliases][-1], kind, address.packed))
        counts = struct.pack(">HHHH", 1, len(records), 0, 0)
        head = question[:2] + bytes([0x81, 0x80 | reply.code]) + counts
        return reply.delay, head + question[12 : end + 4] + b"".join(records)


def read_name(message: bytes) -> tuple[str, int]:
    """Return the name of the only question, and where it ends."""
    at, labels = 12, list[str]()
    while size := message[at]:
        labels.append(message[at + 1 : at + 1 + size].decode("latin-1"))
        at += 1 + size
    return ".".join(labels), at + 1


def write_name(name: str) -> bytes:
    """Return `name` as labels."""
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def record(owner: str, kind: int, data: bytes) -> bytes:
    """Return one record of the class IN with a lifetime of a minute."""
    return write_name(owner) + struct.pack(">HHIH", kind, 1, 60, len(data)) + data


def lead_to_it(directory: Path) -> None:
    """Set the namespace's loopback up, and name the server in /etc; see netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sh", b"lo", UP))
    for name, text in (
        ("resolv.conf", "nameserver 127.0.0.1\nsearch corp.test\n"),
        ("hosts", "192.0.2.77 in-hosts\n"),
    ):
        file = directory / name
        file.write_text(text)
        subprocess.run(["mount", "--bind", str(file), f"/etc/{name}"], check=True)

# SPDX-License-Identifier: Apache-2.0
"""A hostile SSH server for root of a guest, in place of dropbear.

`python3 -S -E -m benchmarks.attacks.guest.server KIND DIRECTORY` runs in the guest with Python's
standard library, once per connection, which it gets as the kit's dropbear does: over a socket on
descriptor 0. DIRECTORY has `seal.so`. It uses the machine's host key, accepts every login, and
answers the server's first command (or SFTP) with the attack KIND until the connection ends.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator

from benchmarks.attacks.guest.wire import Reader, Wire, exchange_keys, kexinit, number, string

IDENTITY = "/.waggle/run/identity/host_key"
BATCH = 250
ADJUST, DATA = 93, 94


def opening(kind: bytes) -> tuple[bytes, int]:
    head = bytes([90]) + string(kind)
    rest = number(1 << 20) + number(32768)
    address = string(b"127.0.0.1") + number(3128) + string(b"192.0.2.1") + number(1)
    return head + number(0) + rest + address, len(head)


NONSENSE = string(b"nonsense@example.com")
FLOODS: dict[str, tuple[bytes, int]] = {
    "forwarded-opens": opening(b"forwarded-tcpip"),
    "unknown-opens": opening(b"nonsense@example.com"),
    "global-requests": (bytes([80]) + NONSENSE + b"\1", -1),
    "unknown-packets": (bytes([200]), -1),
    "debug": (bytes([4, 0]) + string(b"x") + string(b""), -1),
    "ignore": (bytes([2]) + string(b""), -1),
}
"""A payload, and the offset of a number that differs in each packet, or -1."""
DEAF = "-unread"
"""Suffix of a kind: the same attack by a peer that does not read the answers."""


class Server:
    """Serves a connection after the key exchange."""

    def __init__(self, wire: Wire, kind: str) -> None:
        self._wire, self._kind = wire, kind
        self._window = 0
        self._channels: dict[int, int] = {}
        """The client's channel numbers by the server's."""
        self._asked = b""

    def serve(self) -> None:
        answers = {
            5: self._service, 50: self._login, 80: self._request, 90: self._open, 98: self._use,
            DATA: self._data, 97: self._close,
        }  # fmt: skip
        while True:
            packet = self._wire.receive()
            answer = answers.get(packet[0])
            if answer is not None:
                answer(Reader(packet))

    def _service(self, packet: Reader) -> None:
        self._wire.send(bytes([6]) + string(packet.string()))

    def _login(self, _packet: Reader) -> None:
        self._wire.send(bytes([52]))

    def _request(self, packet: Reader) -> None:
        packet.string()
        if packet.data[packet.at]:
            self._wire.send(bytes([81]))

    def _open(self, packet: Reader) -> None:
        packet.string()
        theirs, self._window = packet.number(), packet.number()
        ours = len(self._channels)
        self._channels[ours] = theirs
        parts = (theirs, ours, 1 << 30, 1 << 15)
        self._wire.send(bytes([91]) + b"".join(map(number, parts)))

    def _use(self, packet: Reader) -> None:
        theirs = self._channels[packet.number()]
        what = packet.string()
        wants_answer, packet.at = packet.data[packet.at], packet.at + 1
        if wants_answer:
            self._wire.send(bytes([99]) + number(theirs))
        if what == b"subsystem" or what != b"exec":
            return
        if packet.string().startswith(b"run ") and not self._kind.startswith("sftp-"):
            self._attack(theirs)
        status = string(b"exit-status") + b"\0" + number(0)
        self._wire.send(bytes([98]) + number(theirs) + status)
        self._wire.send(bytes([97]) + number(theirs))

    def _close(self, packet: Reader) -> None:
        self._wire.send(bytes([97]) + number(self._channels[packet.number()]))

    def _attack(self, theirs: int) -> None:
        kind = self._kind.removesuffix(DEAF)
        if kind == "rekey-without-end":
            self._wire.send(kexinit())
            self._listen()
        if kind == "one-byte-data":
            self._trickle(theirs)
        channel_request = (bytes([98]) + number(theirs) + NONSENSE + b"\1", -1)
        payload, at = FLOODS.get(kind, channel_request)
        first = 0
        while True:
            self._wire.send(payload, BATCH, at, first)
            first += BATCH
            if not self._kind.endswith(DEAF):
                self._discard()

    def _listen(self) -> None:
        while self._wire.connection.recv(1 << 16):
            pass
        raise SystemExit

    def _discard(self) -> None:
        try:
            while self._wire.connection.recv(1 << 16, socket.MSG_DONTWAIT):
                pass
        except BlockingIOError:
            return
        raise SystemExit

    def _trickle(self, theirs: int) -> None:
        """Send bytes one by one, as many as the window allows; beyond it the peer hangs up."""
        payload = bytes([DATA]) + number(theirs) + string(b"x")
        while True:
            while self._window < BATCH or self._is_asked():
                packet = Reader(self._wire.receive())
                if packet.data[0] == ADJUST:
                    packet.number()
                    self._window += packet.number()
            self._wire.send(payload, BATCH)
            self._window -= BATCH

    def _is_asked(self) -> bool:
        try:
            return bool(self._wire.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return False

    # SFTP version 3, in which every directory is endless.

    def _data(self, packet: Reader) -> None:
        theirs = self._channels[packet.number()]
        self._asked += packet.string()
        while len(self._asked) >= 4 and len(self._asked) >= 4 + int.from_bytes(
            self._asked[:4], "big"
        ):
            size = 4 + int.from_bytes(self._asked[:4], "big")
            asked, self._asked = self._asked[4:size], self._asked[size:]
            if not self._kind.startswith("sftp-"):
                continue
            for answer in self._answers(asked):
                self._say(theirs, string(answer))

    def _say(self, theirs: int, data: bytes) -> None:
        for at in range(0, len(data), 1 << 14):
            part = data[at : at + (1 << 14)]
            while self._window < len(part):
                packet = Reader(self._wire.receive())
                if packet.data[0] == ADJUST:
                    packet.number()
                    self._window += packet.number()
            self._wire.send(bytes([DATA]) + number(theirs) + string(part))
            self._window -= len(part)

    def _answers(self, asked: bytes) -> Iterator[bytes]:
        kind, identity = asked[0], asked[1:5]
        if kind == 1:
            yield bytes([2]) + number(3)
        elif self._kind == "sftp-nobody-asked":
            while True:
                yield bytes([101]) + number(0xFFFFFFFF) + number(4) + string(b"x") + string(b"")
        elif kind == 16:
            yield bytes([104]) + identity + number(1) + string(b"/d") * 2 + number(0)
        elif kind in (7, 8, 17):
            yield bytes([105]) + identity + number(4) + number(0o40755)
        elif kind in (3, 11):
            yield bytes([102]) + identity + string(b"handle")
        elif kind == 12:
            names = b"".join(string(b"%d" % n) + string(b"x") + number(0) for n in range(1000))
            yield bytes([104]) + identity + number(1000) + names
        else:
            yield bytes([101]) + identity + number(0) + string(b"") * 2


def taken() -> socket.socket:
    """Return the connection that PID 1 hands over."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=0) as door:
        with contextlib.suppress(BrokenPipeError):  # handed over before the other side listened
            door.send(b"\0")
        _, descriptors, _, _ = socket.recv_fds(door, 1, 1)
        if not descriptors:
            raise SystemExit
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=descriptors[0])
        connection.setblocking(True)
        return connection


def main(kind: str, directory: str, identity: str = IDENTITY) -> None:
    with open(identity, "rb") as file:  # noqa: PTH123 (pathlib is slow to import in an emulated guest)
        host_key = file.read()[-64:]
    wire = Wire(taken(), directory)
    wire.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    exchange_keys(wire, host_key)
    try:
        Server(wire, kind).serve()
    except ConnectionError:
        raise SystemExit from None


if __name__ == "__main__":
    main(*sys.argv[1:])

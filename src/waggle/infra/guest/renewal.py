# SPDX-License-Identifier: Apache-2.0
"""The renewal of a guest: a copied machine gets its own identity and the host's time.

Used by the machines. `Renewal` speaks through a port that the guest's PID 1 holds: records go in
(kit/guest/renew.c), one byte and the guest's time come back. Nothing else in the guest has to work,
and the answer decides only whether the machine is handed out. `record` encodes the identity
(kit/guest/identity.c): u32 name length and u32 data length, little endian, then name and data; two
zeros end the list.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable, Mapping
from typing import Final

from waggle.domain.errors import GuestLost

_HEADER = struct.Struct("<II")
MAX_NAME = 63
MAX_DATA = 8 << 20
END = _HEADER.pack(0, 0)


def record(name: str, data: bytes) -> bytes:
    """Encode one record. Raises ValueError if it is too long."""
    raw = name.encode()
    if not 0 < len(raw) <= MAX_NAME or len(data) > MAX_DATA:
        raise ValueError(f"the record {name!r} is too long")
    return _HEADER.pack(len(raw), len(data)) + raw + data


DEADLINE: Final = 30.0
"""Seconds; an emulated machine on a busy host has taken more than five."""
DRIFT: Final = 0.02
"""Seconds by which the guest's clock may differ; renewal promises 0.05."""
_ATTEMPTS = 20
_ANSWER = struct.Struct("<BQ")


class Renewal:
    """The renewal of one guest. The owner closes the streams."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        """`now` returns nanoseconds since the epoch."""
        self._reader = reader
        self._writer = writer
        self._now = now

    async def renew(self, records: Mapping[str, bytes], *, deadline: float = DEADLINE) -> None:
        """Install records, and set the clock to within DRIFT of the host's.

        `deadline` is seconds for all of it. Raises GuestLost if the guest refuses, does not answer
        or keeps another time; it must not be handed out then.
        """
        parts = [record(name, data) for name, data in records.items()]
        try:
            async with asyncio.timeout(deadline):
                await self._send(parts, 0)
                ahead = 0
                for _ in range(_ATTEMPTS):
                    latency, off = await self._send([], ahead)
                    if off <= DRIFT * 1e9:
                        return
                    ahead = latency // 2
        except TimeoutError:
            raise GuestLost(f"The guest was not renewed within {deadline:g} s.") from None
        except (OSError, EOFError) as error:
            raise GuestLost("The guest was not renewed: its channel is closed.") from error
        raise GuestLost("The guest does not keep the time that it is given.")

    async def _send(self, parts: list[bytes], ahead: int) -> tuple[int, int]:
        """Send records and the time plus `ahead`; return the duration and the largest clock error.

        All are nanoseconds. The guest read its clock between `sent` and `received`.
        """
        sent = self._now()
        clock = record("clock", struct.pack("<Q", sent + ahead))
        self._writer.write(b"".join([*parts, clock, END]))
        await self._writer.drain()
        good, guest_time = _ANSWER.unpack(await self._reader.readexactly(_ANSWER.size))
        received = self._now()
        if good != 1:
            raise GuestLost("The guest refused to be renewed.")
        return received - sent, max(abs(guest_time - sent), abs(guest_time - received))

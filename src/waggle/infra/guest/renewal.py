# SPDX-License-Identifier: Apache-2.0
"""Makes the copy of a frozen machine another environment, over a port that the guest's PID 1 holds.

Records go in (kit/guest/renew.c), one byte and the guest's time come back. Nothing else in the
guest has to work, and nothing of it is asked for: what a guest answers decides only whether it is
handed out.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable, Mapping
from typing import Final

from waggle.domain.errors import GuestLost
from waggle.infra.guest.records import END, record

DEADLINE: Final = 30.0
"""Seconds; a machine that is emulated on a busy host has taken more than five."""
DRIFT: Final = 0.02
"""Seconds by which the guest's clock may differ; renewal promises 0.05."""
_ATTEMPTS = 20
_ANSWER = struct.Struct("<BQ")


class Renewal:
    """Renews one guest. Closing the streams is the owner's business."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        """`now` is nanoseconds since the epoch."""
        self._reader = reader
        self._writer = writer
        self._now = now

    async def renew(self, records: Mapping[str, bytes], *, deadline: float = DEADLINE) -> None:
        """Install records, and set the clock to within DRIFT of the host's.

        `deadline` is seconds for all of it. Raises GuestLost when the guest refuses, does not
        answer, or keeps another time; it must not be handed out then.
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
        raise GuestLost("The guest does not keep the time that it is told.")

    async def _send(self, parts: list[bytes], ahead: int) -> tuple[int, int]:
        """Send records and the time, `ahead` of now; how long it took, and how far it may be off.

        All are nanoseconds. The guest looked at its clock between the question and the answer.
        """
        asked = self._now()
        clock = record("clock", struct.pack("<Q", asked + ahead))
        self._writer.write(b"".join([*parts, clock, END]))
        await self._writer.drain()
        good, told = _ANSWER.unpack(await self._reader.readexactly(_ANSWER.size))
        heard = self._now()
        if good != 1:
            raise GuestLost("The guest refused to be renewed.")
        return heard - asked, max(abs(told - asked), abs(told - heard))

# SPDX-License-Identifier: Apache-2.0
"""QEMU's monitor (QMP) within bounds: what a QEMU says costs the server no memory and little time.

Made by `machine`. A guest can cause events (its clock, its balloon, its ports), and a QEMU that it
has taken over can say anything. The library keeps each event for ever and reads without a pause as
long as there is something to read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Generator, Mapping
from typing import Final, cast

from qemu.qmp import EventListener, QMPClient, QMPError
from qemu.qmp.message import Message

LONGEST: Final = 64 * 1024
"""Bytes of one message; the connection ends at a longer one. The largest of ours has some 500."""
A_TURN: Final = 32
"""Messages after which the loop serves others first,"""
A_SECOND: Final = 512
"""and after which QEMU waits; answers to our commands are a handful."""


class Monitor(QMPClient):
    """A connection to one QEMU. What it reports by itself is dropped, except within `hearing`."""

    def __init__(self, name: str) -> None:
        super().__init__(name, readbuflen=LONGEST)
        self.events.event_filter = _deaf
        self._hearing: set[asyncio.Future[str]] = set()
        self._read = 0
        self._since = 0.0

    @contextlib.contextmanager
    def hearing(self, name: str, wanted: Collection[str]) -> Generator[asyncio.Future[str]]:
        """The first of the `wanted` that an event of this name has as its status in the block.

        Ends with QMPError when the connection does.
        """
        heard: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def keep_none(event: Mapping[str, object]) -> bool:
            data = event.get("data")
            said = cast("dict[str, object]", data).get("status") if isinstance(data, dict) else None
            if isinstance(said, str) and said in wanted and not heard.done():
                heard.set_result(said)
            return False

        self._hearing.add(heard)
        try:
            with self.listen(EventListener(name, keep_none)):
                yield heard
        finally:
            self._hearing.discard(heard)
            heard.cancel()
            if not heard.cancelled():
                heard.exception()  # so that it counts as seen

    async def _do_recv(self) -> Message:
        try:
            return await super()._do_recv()
        except (ValueError, RecursionError) as error:  # too long, no text, too deep
            raise QMPError(f"QEMU says what is no message: {type(error).__name__}") from error

    async def _on_message(self, msg: Message) -> None:
        await super()._on_message(msg)
        self._read += 1
        if self._read % A_TURN == 0:
            await self._breathe()

    async def _breathe(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._since >= 1.0:
            self._read, self._since = 0, now
        await asyncio.sleep(self._since + 1.0 - now if self._read >= A_SECOND else 0.0)

    async def _bh_disconnect(self) -> None:
        try:
            await super()._bh_disconnect()
        finally:
            for heard in self._hearing:
                if not heard.done():
                    heard.set_exception(QMPError("the monitor is closed"))


def _deaf(_: Mapping[str, object]) -> bool:
    return False

# SPDX-License-Identifier: Apache-2.0
"""What comes out of something packed, as a raw stream that refuses damage and bombs.

Called by `compress` for layers and by `archive` for whole archives.
"""

from __future__ import annotations

import io

from waggle.domain.errors import ImageCorrupt
from waggle.infra.archive.decode import CountedFile, decoder
from waggle.infra.archive.decoders import DAMAGE
from waggle.infra.archive.limits import Limits


class BoundedStream(io.RawIOBase):
    """The unpacked bytes. Wrap it in `io.BufferedReader`. Reading raises ImageCorrupt."""

    def __init__(self, stored: CountedFile, limits: Limits, what: str) -> None:
        """Unpack what is `stored`; `what` begins the messages."""
        super().__init__()
        self._stored = stored
        self._source = decoder(stored, limits.window)
        self._limits = limits
        self._what = what
        self.unpacked_bytes = 0

    def readable(self) -> bool:
        """Say that this stream can be read."""
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride] (typeshed's Buffer is a memoryview here)
        """Fill `buffer` with unpacked bytes."""
        try:
            data = self._source.read(len(buffer))
        except DAMAGE as error:
            most = f"packed with a window of over {self._limits.window >> 20} MiB"
            message = f"{self._what} cannot be unpacked: it is damaged, cut off, or {most}."
            raise ImageCorrupt(message) from error
        buffer[: len(data)] = data
        self.unpacked_bytes += len(data)
        self._check_bounds()
        self._took(data)
        return len(data)

    def _took(self, data: bytes) -> None:
        """Told of all that comes out."""

    def _check_bounds(self) -> None:
        limits, out = self._limits, self.unpacked_bytes
        if out > limits.total_bytes:
            raise ImageCorrupt(f"{self._what} unpacks to more than {limits.total_bytes} bytes.")
        if out > max(limits.ratio_from, limits.ratio * self._stored.count):
            raise ImageCorrupt(f"{self._what} unpacks to over {limits.ratio} times its size.")

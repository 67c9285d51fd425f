# SPDX-License-Identifier: Apache-2.0
"""Judges what an SSH server sends beside its channels' data. Used by `bounded`. Pure.

The kit's dropbear sends hardly any of it, so the bounds are wide for an honest guest and small for
this server's memory. Programs in a guest can have dropbear open channels (they connect to the
proxy), but dropbear has at most 1,000 at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from asyncssh import constants

MAX_CHANNELS: Final = 1_200
"""Channels, of both sides, that have not been closed by both."""
MAX_CONTROL: Final = 1_000
"""Control packets at once."""
CONTROL_A_SECOND: Final = 1.0
REKEY: Final = 10
"""A key exchange counts as so many: it costs signatures, and dropbear begins one per GiB."""
MAX_HELD: Final = 10_000
"""Packets that wait to be sent until the peer has done its part of a key exchange."""

_CONTROL: Final = frozenset(
    {
        constants.MSG_UNIMPLEMENTED,
        constants.MSG_DEBUG,
        constants.MSG_EXT_INFO,
        constants.MSG_USERAUTH_BANNER,
        constants.MSG_GLOBAL_REQUEST,
        constants.MSG_CHANNEL_OPEN,
    }
)


class Misconduct(Exception):
    """The peer is no SSH server that serves; its text says what it did."""


class Conduct:
    """The account of one connection. `now` is a clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._seen = 0.0
        self._since = now()
        self._last_padding = -2

    def packet(self, kind: int, number: int, *, is_known: bool) -> None:
        """A packet that is no channel's and opened none, with its number in the connection.

        Raises Misconduct when there are too many that an honest server has no use for.
        """
        if kind == constants.MSG_IGNORE:
            self._padding(number)
        elif kind == constants.MSG_KEXINIT:
            self._count(REKEY)
        elif kind in _CONTROL or not is_known:
            self._count(1)

    def _count(self, count: int) -> None:
        now = self._now()
        self._seen = max(0.0, self._seen - (now - self._since) * CONTROL_A_SECOND) + count
        self._since = now
        if self._seen > MAX_CONTROL:
            raise Misconduct(f"it sent over {MAX_CONTROL:,} control packets")

    def _padding(self, number: int) -> None:
        """It is fine before a packet, but not before more of it."""
        if number == self._last_padding + 1:
            self._count(1)
        self._last_padding = number

    @staticmethod
    def channels(count: int) -> None:
        """So many are open. Raises Misconduct when there are too many."""
        if count > MAX_CHANNELS:
            raise Misconduct(f"it opened over {MAX_CHANNELS:,} channels without closing any")

    @staticmethod
    def held(count: int) -> None:
        """So many packets wait for a key exchange. Raises Misconduct when there are too many."""
        if count > MAX_HELD:
            raise Misconduct("it did not finish a key exchange")

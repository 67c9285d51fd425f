# SPDX-License-Identifier: Apache-2.0
"""Data in the inbox comes out in its order and with its size."""

from __future__ import annotations

import random

from waggle.infra.ssh.bounds import PIECE, Inbox


def test_pieces_are_small_and_nothing_is_lost() -> None:
    chance = random.Random(1)
    inbox, put, got = Inbox(), b"", b""
    for _ in range(50):
        data = chance.randbytes(chance.choice((1, 100, PIECE, PIECE + 1, 5 * PIECE)))
        inbox.put(data)
        put += data
        if chance.random() < 0.5:
            got += inbox.piece()
        assert inbox.size == len(put) - len(got)
    while inbox.size:
        piece = inbox.piece()
        assert 0 < len(piece) <= PIECE
        got += piece
    assert got == put


def test_clear_empties_the_inbox() -> None:
    inbox = Inbox()
    inbox.put(b"x" * PIECE * 3)
    inbox.piece()
    inbox.clear()
    assert inbox.size == 0
    inbox.put(b"y")
    assert inbox.piece() == b"y"

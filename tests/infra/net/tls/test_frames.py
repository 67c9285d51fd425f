# SPDX-License-Identifier: Apache-2.0
"""The meter of HTTP/2 frames: what it lets through, what it keeps, and when it is enough."""

import pytest
from hyperframe.frame import (
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    WindowUpdateFrame,
)
from hypothesis import given
from hypothesis import strategies as st

from waggle.infra.net.tls.frames import BURST, PER_SECOND, PREFACE, Flood, Meter, goaway
from waggle.infra.net.tls.side import FRAMES_PER_TURN

PING = PingFrame(0, opaque_data=b"12345678").serialize()
DATA = DataFrame(1, data=b"x" * 1000).serialize()
WINDOW = WindowUpdateFrame(0, window_increment=1000).serialize()
RESET = RstStreamFrame(1, error_code=8).serialize()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.integers(0, 40)))
def test_only_goaway_is_kept_however_it_is_split(sizes: list[int]) -> None:
    meter = Meter(preface=True, now=Clock())
    leaving = GoAwayFrame(0, last_stream_id=7, additional_data=b"bye" * 9).serialize()
    data = PREFACE + PING + leaving + DATA + goaway(5) + PING
    passed, at = b"", 0
    for size in [*sizes, len(data)]:
        passed += meter.feed(data[at : at + size])[0]
        at += size
    assert passed == PREFACE + PING + DATA + PING
    assert meter.last_stream == 5


@pytest.mark.parametrize("bad", [b"\0\0\0\7\0\0\0\0\0", b"\0\0\4\7\0\0\0\0\0abcd", b"\0\x40\1\0\0"])
def test_malformed_and_large_frames_are_a_flood(bad: bytes) -> None:
    with pytest.raises(Flood):
        Meter(preface=False, now=Clock()).feed(bad + b"\0" * 9)


def test_a_turn_has_so_many_frames() -> None:
    meter = Meter(preface=False, now=Clock())
    passed, rest = meter.feed(PING * 5 + DATA, 2)
    assert passed + rest == PING * 5 + DATA
    while rest:
        piece, rest = meter.feed(rest, 2)
        passed += piece
    assert passed.startswith(PING * 5 + DATA[:9])


def test_a_turn_has_few_heads_since_each_may_be_thousands_of_headers() -> None:
    head = HeadersFrame(1, data=b"x" * 1000, flags=["END_HEADERS"]).serialize()
    meter = Meter(preface=False, now=Clock())
    passed, _ = meter.feed(head * 20, FRAMES_PER_TURN)
    assert passed.count(head[:9]) == 2


def test_a_budget_is_used_up_and_filled_by_time() -> None:
    clock = Clock()
    meter = Meter(preface=False, now=clock)
    meter.feed(PING * int(BURST))
    with pytest.raises(Flood):
        meter.feed(PING)
    clock.now += 1
    meter.feed(PING * int(PER_SECOND - 5))
    with pytest.raises(Flood):
        meter.feed(PING * 10)


def test_resets_cost_more() -> None:
    with pytest.raises(Flood):
        Meter(preface=False, now=Clock()).feed(RESET * (int(BURST) // 10 + 1))


def test_transfers_pay_for_their_updates_of_windows() -> None:
    sender, receiver = (Meter(preface=False, now=Clock()) for _ in range(2))
    for _ in range(20_000):
        sender.feed(DATA)
        receiver.earn(len(DATA))
        receiver.feed(WINDOW)

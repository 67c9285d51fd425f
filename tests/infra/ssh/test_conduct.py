# SPDX-License-Identifier: Apache-2.0
"""What an SSH server may send beside data: wide for an honest one, and not more."""

from __future__ import annotations

import pytest

from waggle.infra.ssh.conduct import MAX_CHANNELS, MAX_CONTROL, MAX_HELD, Conduct, Misconduct


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_control_packets_at_once_have_a_bound() -> None:
    conduct = Conduct(Clock())
    for _ in range(MAX_CONTROL):
        conduct.control()
    with pytest.raises(Misconduct, match="over 1,000 control packets"):
        conduct.control()


def test_control_packets_one_a_second_go_on_for_ever() -> None:
    clock = Clock()
    conduct = Conduct(clock)
    for _ in range(10 * MAX_CONTROL):
        clock.now += 1.0
        conduct.control()


def test_padding_before_each_packet_is_fine() -> None:
    conduct = Conduct(Clock())
    for number in range(0, 10 * MAX_CONTROL, 2):
        conduct.padding(number)


def test_padding_before_padding_counts() -> None:
    conduct = Conduct(Clock())
    for number in range(1 + MAX_CONTROL):
        conduct.padding(number)
    with pytest.raises(Misconduct):
        conduct.padding(1 + MAX_CONTROL)


def test_as_many_channels_as_dropbear_may_have_are_fine() -> None:
    Conduct.channels(1_000)
    Conduct.channels(MAX_CHANNELS)
    with pytest.raises(Misconduct, match="channels"):
        Conduct.channels(MAX_CHANNELS + 1)


def test_what_waits_for_a_key_exchange_has_a_bound() -> None:
    Conduct.held(MAX_HELD)
    with pytest.raises(Misconduct, match="key exchange"):
        Conduct.held(MAX_HELD + 1)

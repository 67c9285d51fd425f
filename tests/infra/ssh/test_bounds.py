# SPDX-License-Identifier: Apache-2.0
"""Limits on packets other than data from an SSH server: wide for an honest server, and no wider."""

from __future__ import annotations

import pytest
from asyncssh.constants import MSG_DEBUG, MSG_IGNORE, MSG_KEXINIT

from waggle.infra.ssh.bounds import MAX_CHANNELS, MAX_CONTROL, MAX_HELD, REKEY, Conduct, Misconduct


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_of_control_packets_is_bounded() -> None:
    conduct = Conduct(Clock())
    for _ in range(MAX_CONTROL):
        conduct.packet(MSG_DEBUG, 0, is_known=True)
    with pytest.raises(Misconduct, match="over 1,000 control packets"):
        conduct.packet(MSG_DEBUG, 0, is_known=True)


def test_one_control_packet_a_second_is_allowed_forever() -> None:
    clock = Clock()
    conduct = Conduct(clock)
    for _ in range(10 * MAX_CONTROL):
        clock.now += 1.0
        conduct.packet(MSG_DEBUG, 0, is_known=True)


def test_padding_before_each_packet_is_allowed() -> None:
    conduct = Conduct(Clock())
    for number in range(0, 10 * MAX_CONTROL, 2):
        conduct.packet(MSG_IGNORE, number, is_known=True)


def test_padding_before_padding_counts() -> None:
    conduct = Conduct(Clock())
    for number in range(1 + MAX_CONTROL):
        conduct.packet(MSG_IGNORE, number, is_known=True)
    with pytest.raises(Misconduct):
        conduct.packet(MSG_IGNORE, 1 + MAX_CONTROL, is_known=True)


def test_unknown_packets_count_and_answers_do_not() -> None:
    conduct = Conduct(Clock())
    for number in range(2 * MAX_CONTROL):
        conduct.packet(82, number, is_known=True)  # a global request was refused
    for number in range(MAX_CONTROL):
        conduct.packet(200, number, is_known=False)
    with pytest.raises(Misconduct):
        conduct.packet(200, 0, is_known=False)


def test_a_key_exchange_counts_for_several() -> None:
    conduct = Conduct(Clock())
    for number in range(MAX_CONTROL // REKEY):
        conduct.packet(MSG_KEXINIT, number, is_known=True)
    with pytest.raises(Misconduct):
        conduct.packet(MSG_KEXINIT, 0, is_known=True)


def test_as_many_channels_as_dropbear_may_have_are_allowed() -> None:
    Conduct.channels(1_000)
    Conduct.channels(MAX_CHANNELS)
    with pytest.raises(Misconduct, match="channels"):
        Conduct.channels(MAX_CHANNELS + 1)


def test_data_held_for_a_key_exchange_is_bounded() -> None:
    Conduct.held(MAX_HELD)
    with pytest.raises(Misconduct, match="key exchange"):
        Conduct.held(MAX_HELD + 1)

# SPDX-License-Identifier: Apache-2.0
"""PID 1's channels without a virtio console (kit/guest/console.c, kernel.c, ports.c, renew.c)."""

from __future__ import annotations

import os
import select
import signal
import struct
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.support.first_process import (
    END,
    SECONDS,
    FirstProcess,
    Wire,
    build_first_process,
    first_process,
    record,
)
from tests.support.waiting import until_sync

RENEWAL, AGENT = 23, 24
MIB = 1 << 20

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_first_process(tmp_path_factory.mktemp("first-process"))


@pytest.fixture
def guest(binary: Path, tmp_path: Path) -> Generator[FirstProcess]:
    with first_process(binary, tmp_path) as made:
        yield made


def ready(guest: FirstProcess) -> Wire:
    console = guest.console()
    console.until(b"waggle: ready\n")
    return console


def say(guest: FirstProcess, name: str) -> None:
    assert guest.call(RENEWAL).ask(record(b"hostname", name.encode())) == 1


class TestConsole:
    def test_it_says_when_it_is_ready_although_it_has_no_standard_streams(
        self, guest: FirstProcess
    ) -> None:
        assert ready(guest).heard.endswith(b"waggle: ready\n")
        assert guest.process is not None
        kept = Path(f"/proc/{guest.process.pid}/fd")
        assert (kept / "0").readlink() == Path("/dev/null")
        assert (kept / "1").readlink() == (kept / "2").readlink()

    def test_a_connection_that_breaks_is_made_again(self, guest: FirstProcess) -> None:
        first = ready(guest)
        assert not guest.is_called(1)  # one that the host ends sooner is one that it does not want
        first.end.close()
        second = guest.console()
        say(guest, "after")
        second.until(b"host after\n")

    def test_one_that_a_snapshot_breaks_is_made_again_at_once(self, guest: FirstProcess) -> None:
        """However short it was, and with nothing to say: the host waits for a copy's call."""
        for name in ("one", "two", "three"):
            console = guest.console()
            say(guest, name)
            select.select([console.end], [], [])
            console.end.close()  # what was not read makes it a reset
            assert guest.is_called(SECONDS)

    def test_one_that_the_host_ends_at_once_is_made_again_to_say_something(
        self, guest: FirstProcess
    ) -> None:
        ready(guest).end.close()
        say(guest, "after")
        guest.console().until(b"host after\n")

    def test_a_host_that_wants_none_is_not_called_all_the_time(self, guest: FirstProcess) -> None:
        ready(guest).end.close()
        calls = 0
        end = time.monotonic() + 3.5
        while guest.is_called(max(0.0, end - time.monotonic())):
            guest.console().end.close()
            calls += 1
        assert calls <= 4
        assert guest.processor_seconds() < 1

    def test_without_a_host_what_is_said_is_lost_and_later_words_are_not(
        self, guest: FirstProcess
    ) -> None:
        ready(guest).end.close()
        guest.deafen()
        for number in range(3):
            say(guest, f"lost{number}")
        until_sync(lambda: guest.waiting_bytes() == 0)
        guest.listen()
        say(guest, "found")
        assert b"lost" not in guest.console().until(b"host found\n")

    def test_a_machine_whose_host_does_not_listen_boots(self, binary: Path, tmp_path: Path) -> None:
        with first_process(binary, tmp_path, deaf=True) as guest:
            assert guest.call(RENEWAL).ask(b"") == 1

    def test_a_host_that_does_not_read_stops_nothing(self, guest: FirstProcess) -> None:
        console = ready(guest)
        renewal = guest.call(RENEWAL)
        for number in range(400):
            name = f"{number:04}" + "x" * 1000
            assert renewal.ask(record(b"hostname", name.encode())) == 1
        assert b"host 0000x" in console.until(b"host 0000x")
        used = guest.processor_seconds()
        assert not guest.is_called(0.5)
        assert guest.processor_seconds() - used < 0.2

    def test_without_the_word_it_calls_nobody(self, binary: Path, tmp_path: Path) -> None:
        words = "quiet waggle.channels=vsocket xwaggle.channels=vsock"
        with first_process(binary, tmp_path, words=words) as guest:
            until_sync((tmp_path / "guest_22").exists)
            assert not guest.is_called(0.3)
            assert not (tmp_path / "guest_23").exists()

    def test_last_words_come_before_the_end(self, guest: FirstProcess) -> None:
        console = ready(guest)
        guest.call(RENEWAL).end.sendall(record(b"end", bytes(4)) + END)
        console.until(b"waggle: ended\n")
        assert guest.ended() == 0


class TestKernelMessages:
    def test_errors_of_the_kernel_are_said_and_nothing_else(self, guest: FirstProcess) -> None:
        console = ready(guest)
        guest.complain(6, "news")
        guest.complain(4, "a warning")
        guest.complain(8 + 3, "what a program has written")
        guest.complain(3, "Warning: unable to open an initial console.")
        guest.messages.send(b"garbage")
        guest.messages.send(b";")
        guest.messages.send(b"x,y;z")
        guest.complain(3, "disk \\x1b on fire")
        guest.complain(0, "emergency")
        heard = console.until(b"emergency\n").partition(b"waggle: ready\n")[2]
        assert heard == b"[    5.000001] disk \\x1b on fire\n[    5.000001] emergency\n"

    def test_long_ones_are_cut(self, guest: FirstProcess) -> None:
        console = ready(guest)
        guest.complain(3, "y" * 5000)
        guest.complain(3, "end")
        heard = console.until(b"end\n").partition(b"waggle: ready\n")[2]
        assert 200 <= heard.count(b"y") <= 300

    def test_a_flood_is_said_slowly(self, guest: FirstProcess) -> None:
        console = ready(guest)
        began = time.monotonic()
        for number in range(50):
            guest.complain(3, f"number {number:02}")
        console.until(b"number 49\n")
        assert time.monotonic() - began > 1
        assert guest.processor_seconds() < 2

    def test_a_flood_of_what_is_not_said_costs_little(self, guest: FirstProcess) -> None:
        ready(guest)
        guest.messages.setblocking(False)
        end = time.monotonic() + 2
        is_full = False
        while not is_full and time.monotonic() < end:
            try:
                guest.complain(6, "z" * 100)
            except BlockingIOError:
                is_full = True
        assert guest.call(RENEWAL).ask(b"") == 1


class TestRenewal:
    def test_records_are_installed_and_answered(self, guest: FirstProcess) -> None:
        console = ready(guest)
        renewal = guest.call(RENEWAL)
        for name in ("one", "two"):
            assert renewal.ask(record(b"hostname", name.encode())) == 1
        console.until(b"host one\nhost two\n")

    def test_a_new_connection_takes_the_place_of_the_old(self, guest: FirstProcess) -> None:
        old = guest.call(RENEWAL)
        assert old.ask(b"") == 1
        assert guest.call(RENEWAL).ask(b"") == 1
        assert old.has_ended()

    @pytest.mark.parametrize("cut", [1, 7, 8, 12, 20])
    def test_one_that_breaks_within_a_record_stops_nothing(
        self, guest: FirstProcess, cut: int
    ) -> None:
        broken = guest.call(RENEWAL)
        broken.end.sendall(record(b"hostname", b"x" * 100)[:cut])
        broken.end.close()
        assert guest.call(RENEWAL).ask(b"") == 1

    def test_one_that_stays_silent_within_a_record_holds_others_up_for_some_seconds(
        self, guest: FirstProcess
    ) -> None:
        silent = guest.call(RENEWAL)
        silent.end.sendall(record(b"hostname", b"x" * 100)[:20])
        began = time.monotonic()
        assert guest.call(RENEWAL).ask(b"") == 1
        assert time.monotonic() - began < 10
        assert silent.has_ended()

    @pytest.mark.parametrize(
        "bad",
        [
            record(b"clock", b"short"),
            record(b"a/b", b""),
            record(b"n" * 64, b""),
            struct.pack("<II", 4, 9 * MIB),
            struct.pack("<II", 2**32 - 1, 2**32 - 1),
        ],
    )
    def test_bad_records_are_refused_and_end_the_connection(
        self, guest: FirstProcess, bad: bytes
    ) -> None:
        renewal = guest.call(RENEWAL)
        renewal.end.sendall(bad)
        assert renewal.end.recv(1) == b"\0"
        assert renewal.has_ended()
        assert guest.call(RENEWAL).ask(b"") == 1

    def test_a_host_that_does_not_wait_for_the_answer_does_no_harm(
        self, guest: FirstProcess
    ) -> None:
        for _ in range(20):
            hasty = guest.call(RENEWAL)
            hasty.end.sendall(record(b"hostname", b"x") + END)
            hasty.end.close()
        assert guest.call(RENEWAL).ask(b"") == 1

    @pytest.mark.parametrize("port", [RENEWAL, AGENT])
    @pytest.mark.parametrize("cid", [0, 1, 3])
    def test_only_the_host_is_let_in(self, guest: FirstProcess, port: int, cid: int) -> None:
        ours = guest.call(port)
        ours.end.sendall(END if port == RENEWAL else b"x\n")
        ours.end.recv(1)
        assert guest.call(port, cid).has_ended()
        ours.end.sendall(END if port == RENEWAL else b"y\n")
        assert ours.end.recv(1)


class TestAgent:
    def pid(self, wire: Wire) -> int:
        """Return the agent's number, which it says first."""
        wire.until(b"\n")
        line, _, wire.heard = wire.heard.partition(b"\n")
        return int(line.removeprefix(b"agent "))

    def test_it_goes_on_with_the_next_connection(self, guest: FirstProcess) -> None:
        wire = guest.call(AGENT)
        pid = self.pid(wire)
        wire.end.sendall(b"hello\n")
        wire.until(b"hello\n")
        wire.end.close()
        assert guest.call(RENEWAL).ask(b"") == 1
        again = guest.call(AGENT)
        assert self.pid(again) == pid
        again.end.sendall(b"hello\n")
        again.until(b"hello\n")

    def test_a_new_connection_takes_the_place_of_the_old(self, guest: FirstProcess) -> None:
        old = guest.call(AGENT)
        pid = self.pid(old)
        new = guest.call(AGENT)
        assert self.pid(new) == pid
        assert old.has_ended()
        new.end.sendall(b"hello\n")
        new.until(b"hello\n")

    def test_one_that_dies_without_a_connection_is_followed_by_another_on_the_next(
        self, guest: FirstProcess
    ) -> None:
        wire = guest.call(AGENT)
        pid = self.pid(wire)
        wire.end.close()
        assert guest.call(RENEWAL).ask(b"") == 1
        os.kill(pid, signal.SIGKILL)
        until_sync(lambda: not is_running(pid))
        assert self.pid(guest.call(AGENT)) != pid

    def test_one_that_hears_nothing_is_followed_by_another_once_many_have_called(
        self, guest: FirstProcess
    ) -> None:
        wire = guest.call(AGENT)
        pid = self.pid(wire)
        wire.end.sendall(b"deaf\n")
        wire.until(b"deaf\n")
        for _ in range(1000):
            if not is_running(pid):
                break
            guest.call(AGENT).end.close()
            assert guest.call(RENEWAL).ask(b"") == 1
        assert self.pid(guest.call(AGENT)) != pid

    def test_one_that_dies_is_followed_by_another_on_the_same_connection(
        self, guest: FirstProcess
    ) -> None:
        wire = guest.call(AGENT)
        pid = self.pid(wire)
        wire.end.sendall(b"die\n")
        assert self.pid(wire) != pid

    def test_a_renewal_has_it_start_again(self, guest: FirstProcess) -> None:
        wire = guest.call(AGENT)
        pid = self.pid(wire)
        assert guest.call(RENEWAL).ask(record(b"restart-agent", b"")) == 1
        assert self.pid(wire) != pid

    def test_without_a_connection_there_is_none(self, guest: FirstProcess) -> None:
        ready(guest)
        assert guest.call(RENEWAL).ask(b"") == 1
        assert guest.process is not None
        children = Path(f"/proc/{guest.process.pid}/task/{guest.process.pid}/children")
        assert children.read_text() == ""

    def test_connections_without_end_stop_nothing(self, guest: FirstProcess) -> None:
        for _ in range(100):
            guest.call(AGENT).end.close()
        assert guest.call(RENEWAL).ask(b"") == 1
        self.pid(guest.call(AGENT))


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

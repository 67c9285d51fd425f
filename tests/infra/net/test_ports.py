# SPDX-License-Identifier: Apache-2.0
"""Port leases: never the same port twice on one host, whatever else happens on it."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Generator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from waggle.domain.errors import NoPorts
from waggle.infra.net.ports import PortAllocator, PortLease, PortLock, nothing_listens

BASE = 23100


@contextlib.contextmanager
def listener(port: int, host: str = "127.0.0.1") -> Generator[None]:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))
        taken.listen()
        yield


@contextlib.contextmanager
def leased(ports: PortAllocator) -> Generator[PortLease]:
    lease = ports.lease()
    try:
        yield lease
    finally:
        lease.release()


def test_ports_come_in_order_and_a_released_one_comes_last() -> None:
    ports = PortAllocator(BASE, BASE + 3)
    first = ports.lease()
    assert first.port == BASE
    first.release()
    with leased(ports) as second, leased(ports) as third, leased(ports) as fourth:
        assert [second.port, third.port, fourth.port] == [BASE + 1, BASE + 2, BASE]


def test_the_range_excludes_its_end_and_can_be_exhausted() -> None:
    ports = PortAllocator(BASE, BASE + 2)
    with leased(ports), leased(ports) as last:
        with pytest.raises(NoPorts, match=f"2 ports from {BASE} to {BASE + 1}"):
            ports.lease()
        last.release()
        with leased(ports) as again:
            assert again.port == BASE + 1


def test_release_is_idempotent_and_returns_only_its_own_port() -> None:
    ports = PortAllocator(BASE, BASE + 1)
    first = ports.lease()
    first.release()
    second = ports.lease()
    first.release()
    assert ports.leased == {BASE}
    with pytest.raises(NoPorts):
        ports.lease()
    second.release()
    assert ports.leased == frozenset()


@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_a_port_on_which_a_stranger_listens_is_skipped(host: str) -> None:
    ports = PortAllocator(BASE, BASE + 2)
    with listener(BASE, host), leased(ports) as lease:
        assert lease.port == BASE + 1
        with pytest.raises(NoPorts):
            ports.lease()
    with leased(ports) as lease:  # it is not lost for later: the lock was released
        assert lease.port == BASE


def test_a_port_with_connections_in_time_wait_is_free() -> None:
    with socket.socket() as server, socket.socket() as client:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", BASE))
        server.listen()
        client.connect(("127.0.0.1", BASE))
        accepted, _ = server.accept()
        accepted.close()  # the side that closes first keeps TIME_WAIT, on port BASE
        assert client.recv(1) == b""
    assert nothing_listens(BASE)


def test_two_allocators_with_the_same_range_share_it() -> None:
    one, other = PortAllocator(BASE, BASE + 2), PortAllocator(BASE, BASE + 2)
    with leased(one) as mine, leased(other) as theirs:
        assert {mine.port, theirs.port} == {BASE, BASE + 1}
        with pytest.raises(NoPorts):
            one.lease()


def test_a_failing_probe_releases_the_lock() -> None:
    def broken(port: int) -> bool:
        raise OSError(24, "too many open files")

    with pytest.raises(OSError, match="too many open files"):
        PortAllocator(BASE, BASE + 1, is_free=broken).lease()
    with leased(PortAllocator(BASE, BASE + 1)) as lease:
        assert lease.port == BASE


@pytest.mark.parametrize("base,maximum", [(0, 10), (10, 10), (11, 10), (65000, 65537), (-5, 5)])
def test_an_impossible_range_is_refused(base: int, maximum: int) -> None:
    with pytest.raises(ValueError, match="no port range"):
        PortAllocator(base, maximum)


def test_the_highest_port_can_be_in_the_range() -> None:
    with leased(PortAllocator(65535, 65536, is_free=lambda _: True)) as lease:
        assert lease.port == 65535


OTHER_SERVER = f"""
import sys
from waggle.infra.net.ports import PortAllocator
ports = PortAllocator({BASE}, {BASE + 4})
leases = [ports.lease(), ports.lease()]
print(*(lease.port for lease in leases), flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def other_server() -> Generator[tuple["subprocess.Popen[str]", set[int]]]:
    """Run a second process that leases two ports and keeps them until it dies."""
    command = [sys.executable, "-c", OTHER_SERVER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, {int(port) for port in process.stdout.readline().split()}
        finally:
            process.kill()


def test_two_servers_share_the_range_and_a_killed_one_leaves_its_ports() -> None:
    ports = PortAllocator(BASE, BASE + 4)
    with other_server() as (process, theirs), contextlib.ExitStack() as leases:
        mine = {leases.enter_context(leased(ports)).port for _ in range(2)}
        assert len(theirs) == 2
        assert not mine & theirs
        with pytest.raises(NoPorts):
            ports.lease()
        process.kill()
        process.wait()
        assert {leases.enter_context(leased(ports)).port for _ in range(2)} == theirs


class PortRules(RuleBasedStateMachine):
    """Two allocators and strangers on five ports, against a plain model."""

    leases = Bundle[tuple[int, PortLease]]("leases")

    def __init__(self) -> None:
        super().__init__()
        self.locked: set[int] = set()
        self.listening: set[int] = set()
        self.out: dict[int, int] = {}
        self.servers = [
            PortAllocator(100, 105, lock=self.lock, is_free=lambda p: p not in self.listening)
            for _ in range(2)
        ]

    def lock(self, port: int) -> PortLock | None:
        locked = self.locked

        class Held:
            def close(self) -> None:
                locked.remove(port)

        if port in locked:
            return None
        locked.add(port)
        return Held()

    @rule(target=leases, server=st.sampled_from([0, 1]))
    def lease(self, server: int) -> tuple[int, PortLease]:
        free = set(range(100, 105)) - set(self.out) - self.listening
        try:
            lease = self.servers[server].lease()
        except NoPorts:
            assert not free
            return server, PortLease(0, _Nothing(), lambda _: None)
        assert lease.port in free
        self.out[lease.port] = server
        return server, lease

    @rule(which=consumes(leases), twice=st.booleans())
    def release(self, which: tuple[int, PortLease], twice: bool) -> None:
        lease = which[1]
        lease.release()
        if twice:
            lease.release()
        self.out.pop(lease.port, None)

    @rule(port=st.integers(100, 104))
    def stranger_comes(self, port: int) -> None:
        if port not in self.out:
            self.listening.add(port)

    @rule(port=st.integers(100, 104))
    def stranger_leaves(self, port: int) -> None:
        self.listening.discard(port)

    @invariant()
    def what_is_out_is_locked_and_nothing_else(self) -> None:
        assert self.locked == set(self.out)
        for number, server in enumerate(self.servers):
            assert server.leased == {port for port, owner in self.out.items() if owner == number}


class _Nothing:
    def close(self) -> None:
        pass


PortRules.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestPortRules = PortRules.TestCase

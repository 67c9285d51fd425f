# SPDX-License-Identifier: Apache-2.0
"""What a guest's name server hears of names over its connection through the proxy."""

from __future__ import annotations

import asyncio

import pytest
from tests.infra.net.lab import Lab, OpenLab, Turns

from waggle.domain.network import PUBLIC_NETWORK, Network, parse_network
from waggle.infra.net.egress import EgressProxy
from waggle.infra.net.gate import Reach
from waggle.infra.net.guest_request import parse_authority
from waggle.infra.net.names import AT_ONCE, HOST, MAX_LINE, REFUSED_SECONDS, Exists, is_for_names
from waggle.infra.net.pace import Pace
from waggle.infra.net.policy import AddressPolicy
from waggle.infra.net.resolver import Existence, Status, TooManyNames

pytestmark = pytest.mark.anyio
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Known:
    """What is known of names; a name of `silent` has no answer until it is released."""

    def __init__(self, **known: Status) -> None:
        self.known = known
        self.asked: list[str] = []
        self.silent = asyncio.Event()

    async def __call__(self, name: str) -> Existence:
        self.asked.append(name)
        if name.startswith("silent"):
            await self.silent.wait()
        if name.startswith("flood"):
            raise TooManyNames("too many")
        return Existence(self.known.get(name.partition(".")[0], Status.NO_NAME), 4.2)


async def opened(lab: Lab, exists: Exists, network: Network = PUBLIC_NETWORK) -> Ends:
    """Have the lab's proxy answer names, and return a granted connection for them."""
    lab.proxy = EgressProxy(AddressPolicy([]), lab.names, reach=Reach(network), exists=exists)
    return await lab.tunnel(HOST, 53)


async def told(ends: Ends, *names: str) -> list[str]:
    """Send names and return as many lines as there are names, sorted."""
    reader, writer = ends
    writer.write("".join(f"{name}\n" for name in names).encode())
    return sorted([(await reader.readline()).decode().strip() for _ in names])


async def test_each_name_gets_a_line(open_lab: OpenLab) -> None:
    known = Known(
        here=Status.FOUND, bare=Status.NO_ADDRESS, away=Status.NO_ANSWER, gone=Status.NO_NAME
    )
    async with open_lab() as lab:
        ends = await opened(lab, known)
        asked = ("here.test", "bare.test", "gone.test", "away.test", "flood.test")
        assert await told(ends, *asked) == [
            "away.test failed 5",
            "bare.test empty 5",
            "flood.test failed 0",
            "gone.test none 5",
            "here.test found 5",
        ]


async def test_a_slow_name_does_not_hold_up_others(open_lab: OpenLab) -> None:
    known = Known(silent=Status.FOUND, here=Status.FOUND)
    async with open_lab() as lab:
        reader, writer = await opened(lab, known)
        writer.write(b"silent.test\nhere.test\n")
        assert await reader.readline() == b"here.test found 5\n"
        known.silent.set()
        assert await reader.readline() == b"silent.test found 5\n"


async def test_a_name_that_the_rules_refuse_is_found_unseen(open_lab: OpenLab) -> None:
    known = Known()
    async with open_lab() as lab:
        ends = await opened(lab, known, parse_network(["public", "deny secret.test"]))
        assert await told(ends, "secret.test") == [f"secret.test found {REFUSED_SECONDS}"]
        assert await told(ends, "other.test") == ["other.test none 5"]
    assert known.asked == ["other.test"]


async def test_of_an_environment_so_many_names_are_answered_at_once(
    open_lab: OpenLab, turns: Turns
) -> None:
    known = Known()
    async with open_lab() as lab:
        first = await opened(lab, known)
        second = await lab.tunnel(HOST, 53)
        for _, writer in (first, second):
            writer.write(b"".join(b"silent%d.test\n" % i for i in range(AT_ONCE)))
            await writer.drain()
        while len(known.asked) < AT_ONCE:
            await turns()
        await turns()
        assert len(known.asked) == AT_ONCE
        known.silent.set()
        for reader, _ in (first, second):
            for _ in range(AT_ONCE):
                assert (await reader.readline()).endswith(b" none 5\n")


@pytest.mark.parametrize(
    "line",
    [
        *(b"with space\n", b"UPPER.test\n", b"\n", b".test\n", b"a..b\n", b"test.\n", b"a/b\n"),
        b"\xff\n",
        b"a" * 64 + b"\n",
        b"a" * MAX_LINE,
        b"a." * MAX_LINE + b"\n",
    ],
)
async def test_what_is_no_name_ends_the_connection(open_lab: OpenLab, line: bytes) -> None:
    known = Known()
    async with open_lab() as lab:
        reader, writer = await opened(lab, known)
        writer.write(line)
        assert await reader.read() == b""
    assert known.asked == []


async def test_lines_may_come_in_pieces(open_lab: OpenLab, turns: Turns) -> None:
    async with open_lab() as lab:
        reader, writer = await opened(lab, Known(here=Status.FOUND))
        for piece in (b"he", b"re.te", b"st"):
            writer.write(piece)
            await turns()
        writer.write(b"\n")
        assert await reader.readline() == b"here.test found 5\n"


async def test_the_last_answers_come_after_the_guest_has_no_more_to_ask(
    open_lab: OpenLab, turns: Turns
) -> None:
    known = Known()
    async with open_lab() as lab:
        reader, writer = await opened(lab, known)
        writer.write(b"silent.test\n")
        writer.write_eof()
        while not known.asked:
            await turns()
        known.silent.set()
        assert await reader.read() == b"silent.test none 5\n"


async def test_without_names_the_host_for_them_is_none(open_lab: OpenLab) -> None:
    async with open_lab() as lab:
        lab.proxy = EgressProxy(AddressPolicy([]), lab.names)
        answer = await lab.ask(f"CONNECT {HOST}:53 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("place", [f"{HOST}:80", f"x.{HOST}:53", "names.waggle:53"])
def test_only_one_place_is_for_names(place: str) -> None:
    assert not is_for_names(parse_authority(place))
    assert is_for_names(parse_authority(f"{HOST.upper()}:53"))


async def test_questions_have_a_rate_although_their_names_are_known(
    open_lab: OpenLab, turns: Turns
) -> None:
    """The attack: lines without end left other environments 79 round trips a second of 4,560."""
    known = Known(here=Status.FOUND)
    async with open_lab() as lab:
        ends = await opened(lab, known)
        assert lab.proxy._names is not None
        lab.proxy._names._pace = Pace(3, 0.01, now=lambda: 0.0)
        ends[1].write(b"here.test\n" * 10)
        for _ in range(3):
            assert await ends[0].readline() == b"here.test found 5\n"
        await turns()
        assert len(known.asked) == 3
        await lab.proxy.aclose()

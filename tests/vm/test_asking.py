# SPDX-License-Identifier: Apache-2.0
"""A real guest's connections wait for a person's answer: through the proxy, and without it."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from tests.support.vm import Lab, sh
from tests.support.waiting import cancelled

from waggle.domain.environment import Environment
from waggle.domain.network import parse_network
from waggle.domain.network.questions import Answer, Question
from waggle.domain.network.rule_book import Judges
from waggle.infra.net.egress import EgressProxy
from waggle.infra.net.gate import Reach
from waggle.infra.net.policy import Address, AddressPolicy
from waggle.infra.net.resolver import Existence
from waggle.service.environments.questions import Questions

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("leaks"),
]
HERE = "127.9.9.9"
ASK = parse_network("ask")


@asynccontextmanager
async def site() -> AsyncGenerator[int]:
    """Serve a page on loopback; yield the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nserved")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, HERE, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def test_programs_wait_for_the_answer_with_the_proxy_and_without(quick: Lab) -> None:
    questions, environments = Questions(), list[str]()
    asked, looked_up = list[str](), list[str]()

    async def resolve(name: str) -> list[Address]:
        looked_up.append(name)
        return [ipaddress.ip_address(HERE)]

    async def exists(name: str) -> Existence:
        raise AssertionError(f"{name} was looked up before the question")

    async def put(question: Question) -> Answer:
        asked.append(question.host)
        return Answer.ONCE if question.host.startswith("yes") else Answer.NO

    def new_proxy(environment: Environment) -> EgressProxy:
        ask = partial(questions.ask, environment.id)
        reach = Reach(environment.network, Judges(ports=None, web=None), ask=ask)
        environments.append(environment.id)
        policy = AddressPolicy([ipaddress.ip_network(f"{HERE}/32")])
        return EgressProxy(policy, resolve, exists=exists, reach=reach)

    quick.new_proxy = new_proxy
    guest = await quick.guest(network=ASK)
    async with site() as port:
        wget = "/.waggle/bin/busybox wget -q -O -"
        script = f"""
            {wget} http://yes-1.example:{port}/; echo " $?"
            {wget} http://no-1.example:{port}/ 2>&1; echo " $?"
            unset http_proxy HTTP_PROXY
            {wget} http://yes-2.example:{port}/; echo " $?"
            {wget} http://no-2.example:{port}/ 2>&1; echo " $?"
            {wget} http://yes-2.example:{port}/; echo " $?"
        """
        serving = asyncio.ensure_future(questions.serve(environments[0], put))
        result = await guest.run(sh(script))
        await cancelled(serving)
    lines = result.stdout.text().splitlines()
    assert (lines[0], lines[3], lines[-1]) == ("served 0", "served 0", "served 0"), lines
    assert "403 said-no" in lines[1]
    assert "refused" in lines[4]
    assert asked == ["yes-1.example", "no-1.example", "yes-2.example", "no-2.example"]
    assert {*looked_up} == {"yes-1.example", "yes-2.example"}

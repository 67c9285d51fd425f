# SPDX-License-Identifier: Apache-2.0
"""The installed guest agent of a Debian machine: its policy, its unit, its process."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from tests.support.debian_machine import Machine

from waggle.domain.errors import GuestLost
from waggle.infra.guest.answers import AgentBusy
from waggle.infra.guest.client import AgentClient

CONFIG: Final = "/etc/waggle-agent/config.json"
DROP_INS: Final = "/etc/systemd/system/waggle-agent.service.d"
EXAMPLES: Final = "/usr/share/doc/waggle-agent/examples"
UNIT: Final = "waggle-agent.service"
EVERYTHING: Final[Mapping[str, object]] = {
    "methods": {"allow": ["*"]},
    "read": {"allow": ["/"]},
    "write": {"allow": ["/"]},
    "exec": [{"path": "*", "arguments": ["**"]}],
    "users": ["root", "nobody"],
    "audit": ["syslog", "port"],
}
"""A policy that allows everything."""
Found = TypeVar("Found")
SECONDS: Final = 30.0


def put(machine: Machine, path: str, text: str) -> None:
    """Write a file in the machine."""
    data = base64.b64encode(text.encode()).decode()
    machine.sh(f"mkdir -p {Path(path).parent} && printf %s {data} | base64 -d >{path}")


def use_default(machine: Machine) -> None:
    """Have the agent run as its package is."""
    code, _ = machine.run(f"cmp -s {CONFIG}.dpkg-test {CONFIG} && ! test -e {DROP_INS}")
    if code != 0:
        _restart(machine, f"cp {CONFIG}.dpkg-test {CONFIG}; rm -rf {DROP_INS}", is_new_unit=True)


def use(machine: Machine, policy: Mapping[str, object], service: str = "") -> None:
    """Have the agent run with a policy, and rights as for programs.

    `service` are more lines for its unit.
    """
    put(machine, f"{CONFIG}.new", json.dumps(policy))
    put(machine, "/run/test.conf", f"[Service]\n{service}\n")
    is_same_unit = machine.run(f"cmp -s /run/test.conf {DROP_INS}/test.conf")[0] == 0
    is_same_policy = machine.run(f"cmp -s {CONFIG}.new {CONFIG}")[0] == 0
    if not is_same_unit or not is_same_policy:
        change = f"mkdir -p {DROP_INS}; cp {EXAMPLES}/exec.conf /run/test.conf {DROP_INS}/"
        _restart(machine, f"{change}; cp {CONFIG}.new {CONFIG}", is_new_unit=not is_same_unit)


def _restart(machine: Machine, change: str, *, is_new_unit: bool) -> None:
    reload = "systemctl daemon-reload; " if is_new_unit else ""
    machine.sh(f"set -e; {change}; {reload}systemctl restart {UNIT}")


def pid(machine: Machine) -> int:
    """Return the pid of the agent."""
    return int(machine.sh(f"systemctl show -P MainPID {UNIT}"))


def memory(machine: Machine) -> int:
    """Return the bytes of memory that the agent takes, its share of what others use too."""
    path = f"/proc/{pid(machine)}/smaps_rollup"
    return int(machine.sh(f"awk '/^Pss:/ {{print $2}}' {path}")) * 1024


@contextlib.asynccontextmanager
async def client(machine: Machine) -> AsyncGenerator[AgentClient]:
    """A client of the agent that has answered once."""
    made = machine.agent()
    try:
        await answering(made)
        yield made
    finally:
        await made.close()


async def answering(agent: AgentClient, seconds: float = SECONDS) -> None:
    """Return when the agent answers: it is still starting, or was killed. Raises GuestLost."""
    end = time.monotonic() + seconds
    while True:
        try:
            await agent.ping(seconds=0.3)
        except (GuestLost, OSError):
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.05)  # a socket that is just being closed refuses
        else:
            return


async def when_free(call: Callable[[], Awaitable[Found]], seconds: float = SECONDS) -> Found:
    """Call until the agent is not busy with what hosts that are gone have asked for."""
    end = time.monotonic() + seconds
    while True:
        try:
            return await call()
        except AgentBusy:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.05)  # nothing tells when it is done

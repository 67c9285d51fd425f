# SPDX-License-Identifier: Apache-2.0
"""What the policy of the guest agent's package refuses, for `tests/debian/test_agent.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from waggle.infra.guest.client import AgentClient

SECOND = 10**9


@dataclass(frozen=True)
class Refused:
    call: Callable[[AgentClient], Awaitable[object]]
    policy: str


REFUSALS = {
    "exec": Refused(lambda agent: agent.run(["/usr/bin/id"]), "methods"),
    "reboot": Refused(lambda agent: agent.reboot(), "methods"),
    "shutdown": Refused(lambda agent: agent.shutdown(), "methods"),
    "set_time": Refused(lambda agent: agent.set_time(SECOND), "methods"),
    "freeze": Refused(lambda agent: agent.freeze(1), "methods"),
    "read": Refused(lambda agent: agent.read_part("/etc/shadow", 0), "read.allow"),
    "link": Refused(lambda agent: agent.read_part("/tmp/link", 0), "read.allow"),
    "directory": Refused(lambda agent: agent.read_part("/tmp/etc/shadow", 0), "read.allow"),
    "proc": Refused(lambda agent: agent.read_part("/tmp/proc/1/environ", 0), "read.allow"),
    "list": Refused(lambda agent: agent.list_directory("/root"), "read.allow"),
    "write": Refused(lambda agent: agent.write_file("/etc/cron.d/x", b"x"), "write.allow"),
    "write below a link": Refused(
        lambda agent: agent.write_file("/tmp/etc/x", b"x"), "write.allow"
    ),
}

# SPDX-License-Identifier: Apache-2.0
"""The client of a guest agent that speaks the protocol of docs/guest-agent.md.

Used by the machines of all hypervisors, over the one channel that a VMM has, and by `waggle agent`,
over a socket that it may dial again. Many calls may be under way. What the guest says is data of
known types and bounded size by then, and its own words: nothing here trusts it. Errors are
`AgentRefused` when the agent answered with one, `AgentEnded` when it ended instead and another has
started, GuestLost when no answer came that is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Final

from waggle.domain.errors import TooLarge, WaggleError
from waggle.infra.guest.answers import AgentBusy, AgentEnded, EffectUnknown, Notice, lost
from waggle.infra.guest.audit import Audit, Auditor
from waggle.infra.guest.calls import R, decoded, encoded, within
from waggle.infra.guest.channel import Channel, Dial
from waggle.infra.guest.protocol import METHODS, VERSION, Again, files, power, programs, system
from waggle.infra.guest.protocol.fields import MAX_READ, MAX_WRITE
from waggle.infra.guest.regreeting import Regreeting
from waggle.infra.guest.transfers import pieces_of, read_parts, write_parts

MAX_FILE: Final = 64 << 20
"""Bytes of a file that is read as a whole, unless the caller says otherwise."""
MAX_ENTRIES: Final = 10_000
_ALWAYS: Final = ("ping", "get_agent_info", "reboot", "shutdown")
"""Methods that every version has."""
_MARGIN: Final = 10.0
"""Seconds for the answer of a program that was killed at its own timeout."""
_TRANSFER: Final = 300.0
"""Seconds for all parts of a file, or of a directory."""


class AgentClient:
    """One agent. `close` ends it; a call after that, or after a break, dials again."""

    def __init__(self, dial: Dial, on_audit: Callable[[Audit], None] | None = None) -> None:
        """`on_audit` gets what the agent notes of requests; it must be quick and raise nothing."""
        self._auditor = Auditor(on_audit)
        self._regreeting = Regreeting(self._greet_again)
        self._channel = Channel(dial, self._hear)
        self._greeting = asyncio.Lock()
        self._limits: system.Limits | None = None

    async def connect(self) -> None:
        """Open the channel and listen to notifications; calls do it too. Raises OSError."""
        await self._channel.connect()

    async def close(self) -> None:
        """Close the channel. Idempotent; calls under way raise GuestLost."""
        await self._channel.close()
        await self._regreeting.close()

    def _hear(self, notice: Notice) -> None:
        if notice.method == "agent_started":
            self._regreeting.hear()
        self._auditor.hear(notice)

    async def call(
        self,
        method: str,
        kind: type[R],
        params: Mapping[str, object] | None = None,
        seconds: float | None = None,
    ) -> R:
        """Call a method of METHODS, whose result is of `kind`; params that are None are left out.

        `seconds` bounds all of it, the negotiation of versions at the first call included. One that
        changes nothing is sent a second time if the agent ends while it works on it. Raises
        AgentRefused, AgentEnded, GuestLost, and InvalidArgument or TooLarge for bad parameters.
        """
        text = encoded(method, params or {})
        most = METHODS[method].seconds if seconds is None else seconds
        async with within(method, most):
            if method not in _ALWAYS:
                await self._negotiate()
            try:
                answer = await self._channel.ask(method, text)
            except AgentEnded as error:
                if METHODS[method].again is Again.ANEW:
                    raise EffectUnknown(method) from error
                if METHODS[method].again is Again.SAME:
                    raise
                answer = await self._channel.ask(method, text)
        return decoded(method, kind, answer)

    async def _negotiate(self) -> None:
        async with self._greeting:
            if not self._channel.greeted:
                await self.agent_info()

    async def _policy_limits(self) -> system.Limits:
        if self._limits is None or not self._channel.greeted:
            return (await self.agent_info()).policy.limits
        return self._limits

    async def ping(self, seconds: float | None = None) -> None:
        """Return when the agent has answered."""
        await self.call("ping", system.Done, seconds=seconds)

    async def agent_info(self, seconds: float | None = None) -> system.AgentInfo:
        """Return what the agent is and may do, and negotiate the version.

        Calls that an earlier agent took with it end by that, with AgentEnded. Raises AgentRefused
        (unsupported) if it speaks no version that this client speaks.
        """
        method = "get_agent_info"
        text = encoded(method, {"protocol": VERSION})
        async with within(method, METHODS[method].seconds if seconds is None else seconds):
            try:
                asked = await self._channel.inquire(method, text)
            except AgentEnded:
                asked = await self._channel.inquire(method, text)
        info = decoded(method, system.AgentInfo, asked.result)
        self._channel.lose(asked.before.difference(info.pending))
        if info.protocol.partition(".")[0] != VERSION.partition(".")[0]:
            raise lost(method, f"it speaks version {info.protocol}")
        self._limits = info.policy.limits
        self._channel.greet()
        return info

    async def _greet_again(self) -> None:
        if not self._channel.is_open:
            return
        try:
            await self.agent_info()
        except AgentBusy:
            self._regreeting.hear()
        except WaggleError:
            self._channel.greet(False)  # the next call negotiates, and shows why not

    async def system_info(self) -> system.SystemInfo:
        """Return the operating system and the machine, as the guest says."""
        return await self.call("get_system_info", system.SystemInfo)

    async def network_info(self) -> system.NetworkInfo:
        """Return the network interfaces, as the guest says."""
        return await self.call("get_network_info", system.NetworkInfo)

    async def disk_usage(self) -> system.DiskUsage:
        """Return the file systems, as the guest says."""
        return await self.call("get_disk_usage", system.DiskUsage)

    async def metrics(self) -> system.Metrics:
        """Return counters and gauges, as the guest says."""
        return await self.call("get_metrics", system.Metrics)

    async def users(self) -> system.Users:
        """Return who runs programs and who is logged in, as the guest says."""
        return await self.call("get_users", system.Users)

    async def run(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        directory: str | None = None,
        user: str | None = None,
        input: bytes | None = None,  # noqa: A002 - the protocol's word
        timeout: int | None = None,
        output_bytes: int | None = None,
        wait: bool = True,
    ) -> programs.ProcessInfo:
        """Run a program without a shell; with `wait`, until it has ended or was killed.

        `timeout` is in seconds, by default the policy's, after which the agent kills it.
        """
        most = METHODS["exec_command"].seconds
        if wait:
            most = (timeout or (await self._policy_limits()).timeout_seconds) + _MARGIN
        params: dict[str, object] = {
            "argv": [*argv],
            "environment": None if environment is None else dict(environment),
            "directory": directory,
            "user": user,
            "input": input,
            "timeout": timeout,
            "output_bytes": output_bytes,
            "wait": wait,
        }
        return await self.call("exec_command", programs.ProcessInfo, params, most)

    async def process(self, number: int) -> programs.ProcessInfo:
        """Return how a program of `run` is doing; one that has ended is forgotten with that."""
        return await self.call("get_process", programs.ProcessInfo, {"process": number})

    async def kill(self, number: int) -> programs.ProcessInfo:
        """Kill a program of `run`, with all that it started."""
        return await self.call("kill_process", programs.ProcessInfo, {"process": number})

    async def read_part(self, path: str, offset: int, length: int | None = None) -> files.FileData:
        """Return a part of a file, by default as long as the policy allows."""
        params: dict[str, object] = {"path": path, "offset": offset, "length": length}
        return await self.call("file_read", files.FileData, params)

    async def read_file(
        self, path: str, *, limit: int = MAX_FILE, seconds: float = _TRANSFER
    ) -> bytes:
        """Return a file of at most `limit` bytes. Raises TooLarge for a longer one."""
        data = bytearray()
        async with within("file_read", seconds), aclosing(self.read_parts(path)) as parts:
            async for part in parts:
                if max(part.size, len(data) + len(part.data)) > limit:
                    raise TooLarge(f"{path!a} has {part.size:,} bytes, over {limit:,}.", hint="")
                data += part.data
        return bytes(data)

    def read_parts(self, path: str, offset: int = 0) -> AsyncGenerator[files.FileData]:
        """Yield a file's parts in order, up to the size that it has at first; close the result."""
        return read_parts(self.read_part, path, offset, MAX_READ)

    async def write_file(
        self, path: str, data: bytes, *, mode: int | None = None, seconds: float = _TRANSFER
    ) -> None:
        """Write a file, in parts where it is large: an error leaves what was written by then."""
        async with within("file_write", seconds):
            await self.write_parts(path, pieces_of(data, await self.piece_bytes()), mode=mode)

    async def piece_bytes(self) -> int:
        """Return how many bytes of a file can be written by one request."""
        return max(1, min((await self._policy_limits()).write_bytes, MAX_WRITE))

    async def write_parts(
        self,
        path: str,
        pieces: Iterable[bytes],
        *,
        mode: int | None = None,
        report: Callable[[int], None] = lambda _count: None,
    ) -> None:
        """Write a file from pieces of at most `piece_bytes`; `report` gets the bytes so far."""

        async def write(data: bytes, offset: int | None, mode: int | None) -> files.Written:
            params: dict[str, object] = {
                "path": path,
                "data": data,
                "offset": offset,
                "mode": mode,
            }
            return await self.call("file_write", files.Written, params)

        await write_parts(write, pieces, mode, report)

    async def list_directory(
        self, path: str, *, most: int = MAX_ENTRIES, seconds: float = _TRANSFER
    ) -> list[files.Entry]:
        """Return the entries of a directory, at most so many."""
        found: list[files.Entry] = []
        async with within("list_directory", seconds):
            while len(found) < most:
                params = {"path": path, "offset": len(found)}
                page = await self.call("list_directory", files.Listing, params)
                found += page.entries
                if not page.more or not page.entries:
                    break
        return found[:most]

    async def set_time(self, time: int) -> int:
        """Set the guest's clock to nanoseconds since 1970; return what it is then."""
        return (await self.call("set_time", power.ClockSet, {"time": time})).time

    async def shutdown(self, manner: power.Manner = power.Manner.GRACEFUL) -> None:
        """Ask for the end of the machine; the answer comes before it."""
        await self.call("shutdown", system.Done, {"manner": manner})

    async def reboot(self, manner: power.Manner = power.Manner.GRACEFUL) -> None:
        """Ask for a new start of the machine; the answer comes before it."""
        await self.call("reboot", system.Done, {"manner": manner})

    async def sync(self) -> None:
        """Have the guest write what waits for its disks."""
        await self.call("sync_filesystems", system.Done)

    async def freeze(self, timeout: int, mount_points: Sequence[str] | None = None) -> int:
        """Hold all writes until `thaw`, or for so many seconds; return of how many file systems."""
        named = None if mount_points is None else [*mount_points]
        params: dict[str, object] = {"timeout": timeout, "mount_points": named}
        return (await self.call("freeze_filesystems", power.Frozen, params)).count

    async def thaw(self) -> int:
        """Let writes go on; return of how many file systems."""
        return (await self.call("thaw_filesystems", power.Frozen)).count

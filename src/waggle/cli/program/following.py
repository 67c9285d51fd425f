# SPDX-License-Identifier: Apache-2.0
"""Run a program in an environment through the server's tools, as if it ran here.

Its output comes byte for byte while it runs, read from the resources that the server has of it,
page by page. Used by `executing` and `running`; knows nothing of arguments and of what is run.
"""

from __future__ import annotations

import base64
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, cast

import anyio
import anyio.to_thread
from mcp import Client, MCPError
from mcp_types import BlobResourceContents, TextResourceContents

from waggle.cli.client import call
from waggle.cli.progress import answered
from waggle.cli.refusals import CallRefused, advice, refused_request
from waggle.tasks import together

_WAIT_SECONDS = 30.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5
"""Between two looks at a program that prints nothing new."""
_STOP_SECONDS = 15.0
_END_BYTES = 128 << 10
"""Of a stream that is longer than what the server keeps of it, so much of its end is there."""
_PAGE_META = "waggle/page"
TIMED_OUT, SIGNALLED = 124, 128
"""Exit codes as those of timeout(1) and of shells."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its exit code here, and what to tell, which may be nothing.

    `lost` is bytes of output that the server did not keep.
    """

    code: int
    told: str = ""
    lost: int = 0


async def run(
    client: Client, arguments: Mapping[str, Any], stdout: IO[bytes], stderr: IO[bytes]
) -> Ended:
    """Start what the arguments of `run_command` say, and return when it has ended.

    A program that still runs when this is cancelled, or fails, is killed. Raises CallRefused, and
    what writing to the streams raises.
    """
    identity = str(arguments["environment_id"])
    begin = partial(call, client, "run_command", **arguments, background=True, images=False)
    started = await answered(begin)  # a job whose number is not known could not be killed
    job = _Job(client, identity, int(started["job_id"]))
    try:
        return await job.follow(stdout, stderr)
    except BaseException:
        await job.kill()
        raise


class _Job:
    """A program that was started."""

    def __init__(self, client: Client, identity: str, number: int) -> None:
        self._client = client
        self._arguments: dict[str, Any] = {"environment_id": identity, "job_id": number}
        self._uri = f"waggle://environments/{identity}/executions/{number}/"
        self._over = anyio.Event()
        self._result: Mapping[str, Any] = {}

    async def follow(self, stdout: IO[bytes], stderr: IO[bytes]) -> Ended:
        """Copy both streams until it has ended and all is copied."""
        streams = [_Stream(self._client, self._uri + "stdout", stdout)]
        streams.append(_Stream(self._client, self._uri + "stderr", stderr))
        async with together() as group:
            group.start_soon(self._wait)
            pause = _FIRST_PAUSE
            while True:
                over = self._over.is_set()
                new = [await stream.copy() for stream in streams]
                if over:
                    break
                pause = _FIRST_PAUSE if any(new) else min(pause * 1.5, _LONGEST_PAUSE)
                with anyio.move_on_after(pause):
                    await self._over.wait()
        return ended(self._result, sum(stream.lost for stream in streams))

    async def _wait(self) -> None:
        while not self._over.is_set():
            try:
                result = await call(
                    self._client, "wait_job", **self._arguments, wait_seconds=_WAIT_SECONDS
                )
            except CallRefused as error:
                if await _may_again(error):
                    continue
                if not error.result:
                    raise
                result = error.result  # it timed out, or its machine is gone
            if result["status"] != "running":
                self._result = result
                self._over.set()

    async def kill(self) -> None:
        """End it, whatever else happens. Bounded."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(_STOP_SECONDS):
            try:
                await call(self._client, "kill_job", **self._arguments)
            except CallRefused:
                return  # its environment is gone, and it with it


class _Stream:
    """One of its streams, copied from the server into a file of this process."""

    def __init__(self, client: Client, uri: str, into: IO[bytes]) -> None:
        self._client = client
        self._uri = uri
        self._into = into
        self._at = 0
        self.lost = 0

    async def copy(self) -> bool:
        """Copy what there is by now; say whether there was something."""
        begin = self._at
        while True:
            data, start, following = await self._read()
            self.lost += start - self._at
            self._at = start + len(data)
            if data:
                await anyio.to_thread.run_sync(self._write, data, abandon_on_cancel=True)
            if following is None:
                return self._at > begin

    def _write(self, data: bytes) -> None:
        self._into.write(data)
        self._into.flush()

    async def _read(self) -> tuple[bytes, int, int | None]:
        """The next page, where it begins, and where the one after it does."""
        try:
            return await self._page(self._at)
        except CallRefused as error:
            if await _may_again(error):
                return b"", self._at, self._at
            if error.reason != "invalid_argument":
                raise
        data, start, following = await self._page(-_END_BYTES)  # the middle was not kept
        known = max(self._at - start, 0)
        return data[known:], max(start, self._at), following

    async def _page(self, offset: int) -> tuple[bytes, int, int | None]:
        uri = f"{self._uri}?offset={offset}"
        try:
            read = await self._client.read_resource(uri, cache_mode="bypass")
        except MCPError as error:
            if told := refused_request(error):
                raise told from error
            raise
        (content,) = read.contents
        about = cast("dict[str, Any]", (content.meta or {})[_PAGE_META])
        return _bytes(content), int(about["offset"]), about["next_offset"]


def _bytes(content: TextResourceContents | BlobResourceContents) -> bytes:
    if isinstance(content, BlobResourceContents):
        return base64.b64decode(content.blob, validate=True)
    return content.text.encode()


async def _may_again(error: CallRefused) -> bool:
    """Whether the same call may be made again, after a wait if the server wants one."""
    if error.wait is None:
        return False
    await anyio.sleep(error.wait)
    return True


def ended(result: Mapping[str, Any], lost: int = 0) -> Ended:
    """What a job's last result means here. Pure."""
    status, seconds = str(result["status"]), result.get("duration_ms", 0) / 1000
    told = _diagnosis(result)
    match status:
        case "exited":
            return Ended(int(result["exit_code"]), told, lost)
        case "timed_out":
            return Ended(TIMED_OUT, f"It was killed at its timeout, after {seconds:.1f} s.", lost)
        case "signaled":
            name = str(result["signal"])
            return Ended(SIGNALLED + _number(name), told or f"{name} ended it.", lost)
        case "killed":
            return Ended(SIGNALLED + signal.SIGKILL, "Somebody killed it.", lost)
        case _:
            return Ended(1, told or "It was lost with its environment.", lost)


def _number(name: str) -> int:
    number = getattr(signal, name, 0) if name.startswith("SIG") else 0
    return int(number) if isinstance(number, int) else 0


def _diagnosis(result: Mapping[str, Any]) -> str:
    known = result.get("diagnosis")
    if not known:
        return ""
    return f"{known['cause']}\n  {advice(known.get('next_step', ''))}".rstrip()

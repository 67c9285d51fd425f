# SPDX-License-Identifier: Apache-2.0
"""A program run in an environment through the server's tools, as if it ran here.

Copies its output byte for byte while it runs, page by page, from the server's resources of the job.
Used by `exec` and `run`. Knows nothing of the command line and of the program.
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

from waggle.cli.advice import advice
from waggle.cli.client import CallRefused, call, refused_request
from waggle.cli.progress import answered, say
from waggle.tasks import together

_WAIT_SECONDS = 30.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5
"""Seconds between two reads of a program that prints nothing new."""
_PAUSED_PAUSE = 1.0
"""Seconds between two looks at an environment that is paused."""
_STOP_SECONDS = 15.0
_END_BYTES = 128 << 10
"""Bytes at the end of a stream that the server keeps even if the stream is longer than it keeps."""
_PAGE_META = "waggle/page"
TIMED_OUT, SIGNALLED = 124, 128
"""Exit codes as of timeout(1) and shells."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a program: the exit code of this command, and a message, which may be empty.

    `lost` is the number of bytes of output that the server did not keep.
    """

    code: int
    message: str = ""
    lost: int = 0


async def run(
    client: Client, arguments: Mapping[str, Any], stdout: IO[bytes], stderr: IO[bytes]
) -> Ended:
    """Run a program with these arguments of `run_command`, and return when it has ended.

    Kills a program that still runs when this fails or is cancelled. Raises CallRefused, and the
    errors of writing to the streams.
    """
    number = await start(client, arguments)
    job = _Job(client, str(arguments["environment_id"]), number)
    try:
        return await job.follow(stdout, stderr)
    except BaseException:
        await job.kill()
        raise


async def start(client: Client, arguments: Mapping[str, Any]) -> int:
    """Start a program, and return the number of its job, also when cancelled. Raises CallRefused.

    A job whose number is not known could not be killed.
    """
    begin = partial(call, client, "run_command", **arguments, background=True, images=False)
    try:
        started = await answered(begin)
    except CallRefused as error:
        if "job_id" not in error.result:
            raise
        started = error.result  # its time was over before the answer
    return int(started["job_id"])


class _Job:
    """A started program."""

    def __init__(self, client: Client, environment_id: str, number: int) -> None:
        self._client = client
        self._arguments: dict[str, Any] = {"environment_id": environment_id, "job_id": number}
        self._uri = f"waggle://environments/{environment_id}/executions/{number}/"
        self._over = anyio.Event()
        self._result: Mapping[str, Any] = {}

    async def follow(self, stdout: IO[bytes], stderr: IO[bytes]) -> Ended:
        """Copy both streams until the program has ended and all output is copied."""
        streams = [OutputStream(self._client, self._uri + "stdout", stdout)]
        streams.append(OutputStream(self._client, self._uri + "stderr", stderr))
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
                result = error.result  # the program timed out, or its machine is gone
            if result["status"] == "paused":
                await until_resumed(self._client, self._arguments)
            elif result["status"] != "running":
                self._result = result
                self._over.set()

    async def kill(self) -> None:
        """Kill the program, even when cancelled, within _STOP_SECONDS."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(_STOP_SECONDS):
            try:
                await call(self._client, "kill_job", **self._arguments)
            except CallRefused:
                return  # the environment is gone, and the program with it


async def status_of(client: Client, job: Mapping[str, Any]) -> str:
    """Return the status of a job; asking does not resume its environment. Raises CallRefused."""
    while True:
        try:
            return str((await call(client, "read_job", **job, limit=1))["status"])
        except CallRefused as error:
            if not await _may_again(error):
                raise


async def until_resumed(client: Client, job: Mapping[str, Any]) -> None:
    """Report that a job is paused, and wait until it is not. Raises CallRefused."""
    environment = job["environment_id"]
    say(f"waggle: It is paused. 'waggle env resume {environment}' resumes its environment.")
    paused = True
    while paused:
        await anyio.sleep(_PAUSED_PAUSE)
        paused = await status_of(client, job) == "paused"
    say("waggle: It is resumed.")


class OutputStream:
    """One output stream of a program, copied from the server into a file of this process."""

    def __init__(self, client: Client, uri: str, into: IO[bytes]) -> None:
        self._client = client
        self._uri = uri
        self._into = into
        self._at = 0
        self.lost = 0

    async def copy(self) -> bool:
        """Copy the output so far; return whether there was any."""
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
        """Return the next page, its offset, and the offset of the page after it, if any."""
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
            if refusal := refused_request(error):
                raise refusal from error
            raise
        (content,) = read.contents
        about = cast("dict[str, Any]", (content.meta or {})[_PAGE_META])
        return _bytes(content), int(about["offset"]), about["next_offset"]


def _bytes(content: TextResourceContents | BlobResourceContents) -> bytes:
    if isinstance(content, BlobResourceContents):
        return base64.b64decode(content.blob, validate=True)
    return content.text.encode()


async def _may_again(error: CallRefused) -> bool:
    """Wait as long as the server requires, and return whether to repeat the call."""
    if error.wait is None:
        return False
    await anyio.sleep(error.wait)
    return True


def ended(result: Mapping[str, Any], lost: int = 0) -> Ended:
    """Return the end of a program from the last result of its job. Pure."""
    status, seconds = str(result["status"]), result.get("duration_ms", 0) / 1000
    message = _diagnosis(result)
    match status:
        case "exited":
            return Ended(int(result["exit_code"]), message, lost)
        case "timed_out":
            return Ended(TIMED_OUT, f"It was killed at its timeout, after {seconds:.1f} s.", lost)
        case "signaled":
            name = str(result["signal"])
            return Ended(SIGNALLED + _number(name), message or f"{name} ended it.", lost)
        case "killed":
            return Ended(SIGNALLED + signal.SIGKILL, "It was killed.", lost)
        case _:
            return Ended(1, message or "It was lost with its environment.", lost)


def _number(name: str) -> int:
    number = getattr(signal, name, 0) if name.startswith("SIG") else 0
    return int(number) if isinstance(number, int) else 0


def _diagnosis(result: Mapping[str, Any]) -> str:
    known = result.get("diagnosis")
    if not known:
        return ""
    return f"{known['cause']}\n  {advice(known.get('next_step', ''))}".rstrip()

# SPDX-License-Identifier: Apache-2.0
"""Run the jobs inside the outer machine; started by `init` beside this file, as root.

Reads /lab/jobs.json, reports events as lines of JSON on the virtio port `lab.progress`, and keeps
the whole output of every job in /lab/report, which it writes to the last disk as a tar after every
job. Uses only the standard library, since it runs before anything else is known to work: what tests
import, it imports for them as far as it can, and forks for every job that is pytest. Imports are
most of what a short pytest does, and emulated they take a minute.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tarfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol, TypedDict

LAB = Path("/lab")
PROJECT = LAB / "project"
REPORT = LAB / "report"
REPORT_DISK = "/dev/vdd"
PROGRESS = "lab.progress"
GRACE_SECONDS = 20.0
LONGEST_LINE = 4000
BEAT_SECONDS = 5.0
"""Interval of the beats that show the host that this machine runs, whatever the job does."""
PRELOADED = ("pytest", "hypothesis", "structlog", "anyio.pytest_plugin", "waggle.app.root", "mcp")
"""What nearly every job of tests imports."""
REWRITE = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
"""Plugins among them come without pytest's better messages for their own assertions."""


class Job(TypedDict):
    """A job as lab.project writes it: a command of bash, or with `tests` what pytest is given."""

    name: str
    command: str
    tests: list[str]
    seconds: float
    environment: dict[str, str]


class Process(Protocol):
    """What this module needs of a job's process, which leads a group of its own."""

    pid: int

    def poll(self) -> int | None:
        """Return its exit code if it has ended."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        ...


class Progress:
    """The port that reports events to the host."""

    def __init__(self, port: IO[bytes]) -> None:
        self._port = port

    def say(self, event: str, **details: object) -> None:
        """Send one whole event at once."""
        self._port.write(json.dumps({"event": event, **details}).encode() + b"\n")
        self._port.flush()


def open_port(name: str) -> IO[bytes]:
    """Open the virtio port of that name. Raises FileNotFoundError."""
    for entry in Path("/sys/class/virtio-ports").iterdir():
        if (entry / "name").read_text().strip() == name:
            device = os.open(f"/dev/{entry.name}", os.O_WRONLY | os.O_CLOEXEC)
            return os.fdopen(device, "wb", buffering=0)
    raise FileNotFoundError(name)


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables of a job."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LC_ALL", "PYTHONUTF8")}
    return {**kept, "PYTHONPATH": f"{PROJECT}/src:{PROJECT}", **extra}


def run(job: Job, progress: Progress) -> int:
    """Run one job to its end or deadline and return its exit code, 124 after the deadline."""
    name = job["name"]
    deadline = time.monotonic() + job["seconds"]
    with (REPORT / f"{name}.log").open("wb") as log:
        process, output = forked(job) if job["tests"] else started(job)
        with output:
            in_time = copy(process, output.fileno(), log, progress, deadline)
        if in_time:
            return process.wait()
        end(process)
        return 124


def started(job: Job) -> tuple[Process, IO[bytes]]:
    """Start a job's command; return its process and its output."""
    process = subprocess.Popen(
        ["/bin/bash", "-c", job["command"]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=PROJECT,
        env=environment(job["environment"]),
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, process.stdout


class Fork:
    """A copy of this process that runs pytest."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return its exit code if it has ended, negative after a signal."""
        if self._code is None and (found := os.waitpid(self.pid, os.WNOHANG)) != (0, 0):
            self._code = os.waitstatus_to_exitcode(found[1])
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        late = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if late is not None and time.monotonic() >= late:
                raise subprocess.TimeoutExpired("pytest", timeout or 0)
            time.sleep(0.05)
        return code


def forked(job: Job) -> tuple[Process, IO[bytes]]:
    """Start a job of tests in a copy of this process; return it and its output."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        os._exit(child(job, theirs))
    os.close(theirs)
    return Fork(pid), os.fdopen(ours, "rb", buffering=0)


def child(job: Job, output: int) -> int:
    """Run a job of tests in this process, a copy, and return its exit code. Raises nothing."""
    os.setsid()
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.close(output)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    try:
        return tests(job["tests"], environment(job["environment"]))
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()


def tests(arguments: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run pytest in this process as `python3 -m pytest` would, and return its exit code."""
    import pytest  # noqa: PLC0415 - this module works without it

    os.chdir(PROJECT)
    os.environ.clear()
    os.environ.update(variables)
    return int(pytest.main(["-W", REWRITE, *arguments]))


def preload() -> Iterator[str]:
    """Import what tests need, and yield what is to be told. A job meets what fails here again."""
    sys.path[:0] = [f"{PROJECT}/src", str(PROJECT)]
    for name in PRELOADED:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a module of the project raises
            yield f"{name} could not be imported early: {error}"
        else:
            yield ""
    gc.collect()
    gc.freeze()  # or collections in the copies would write to the memory that they share


def copy(
    process: Process, descriptor: int, log: IO[bytes], progress: Progress, deadline: float
) -> bool:
    """Copy the job's output to log and host until it ends. Returns False at the deadline."""
    rest, beat = b"", time.monotonic()
    while (left := deadline - time.monotonic()) > 0:
        if time.monotonic() >= beat:
            progress.say("beat")
            beat = time.monotonic() + BEAT_SECONDS
        if not select.select([descriptor], [], [], min(left, 1.0))[0]:
            if process.poll() is not None:
                return True  # a daemon that it left behind holds the pipe
            continue
        data = os.read(descriptor, 65536)
        log.write(data)
        log.flush()
        *lines, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
        if rest and (not data or len(rest) > LONGEST_LINE):
            lines, rest = [*lines, rest], b""
        for line in lines:
            progress.say("line", text=line[:LONGEST_LINE].decode("utf-8", "replace"))
        if not data:
            process.wait()
            return True
    return False


def end(process: Process) -> None:
    """End a late job. SIGINT comes first, so that pytest writes its report."""
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE_SECONDS)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def deliver() -> None:
    """Write the report so far to the last disk."""
    with Path(REPORT_DISK).open("r+b") as disk:
        with tarfile.open(fileobj=disk, mode="w|") as archive:
            archive.add(REPORT, "report")
        disk.flush()
        os.fsync(disk.fileno())


def main() -> int:
    """Run all jobs, even after a failed one."""
    REPORT.mkdir()
    with open_port(PROGRESS) as port:
        progress = Progress(port)
        progress.say("up", seconds=time.clock_gettime(time.CLOCK_BOOTTIME))
        jobs: list[Job] = json.loads((LAB / "jobs.json").read_text())
        for problem in preload() if any(job["tests"] for job in jobs) else ():
            progress.say("line", text=problem) if problem else progress.say("beat")
        for job in jobs:
            began = time.monotonic()
            progress.say("start", job=job["name"], seconds=job["seconds"])
            code = run(job, progress)
            deliver()
            took = time.monotonic() - began
            progress.say("end", job=job["name"], code=code, seconds=round(took, 1))
        progress.say("over")
    return 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Run the jobs inside the outer machine; started by `init` beside this file, as root.

Reads /lab/jobs.json, reports events as lines of JSON on the virtio port `lab.progress`, and keeps
the whole output of every job in /lab/report, which it writes to the last disk as a tar after every
job. Uses only the standard library, since it runs before anything else is known to work.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TypedDict

LAB = Path("/lab")
PROJECT = LAB / "project"
REPORT = LAB / "report"
REPORT_DISK = "/dev/vdd"
PROGRESS = "lab.progress"
GRACE_SECONDS = 20.0
LONGEST_LINE = 4000
BEAT_SECONDS = 5.0
"""Interval of the beats that show the host that this machine runs, whatever the job does."""


class Job(TypedDict):
    """A job as lab.project writes it."""

    name: str
    command: str
    seconds: float
    environment: dict[str, str]


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
        with process.stdout:
            in_time = copy(process, log, progress, deadline)
        if in_time:
            return process.wait()
        end(process)
        return 124


def copy(
    process: subprocess.Popen[bytes], log: IO[bytes], progress: Progress, deadline: float
) -> bool:
    """Copy the job's output to log and host until it ends. Returns False at the deadline."""
    assert process.stdout is not None
    descriptor, rest, beat = process.stdout.fileno(), b"", time.monotonic()
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


def end(process: subprocess.Popen[bytes]) -> None:
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

# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.krun_inside RESULT PEER ROUNDS`: krun's comparisons, where libkrun runs.

Started by `benchmarks.krun`, in the lab or directly. Writes the seconds and bytes of each side to
the file RESULT as JSON; PEER is the directory of `lab.peer`. Prints progress on standard output.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from mcp import Client

from benchmarks.cold import create_and_run
from benchmarks.interleave import interleave
from benchmarks.process import own_bytes
from benchmarks.server import free_port, serving
from lab import ingredients, peer
from waggle.app.values import image_references, image_service
from waggle.cli.client import connected
from waggle.config import Settings, load
from waggle.domain.host import no_progress
from waggle.domain.machine import READY_LINE, GuestDisks, MachineSpec, Resources
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.krun.machine import KrunHypervisor
from waggle.infra.krun.probe import read_krun_facts

ROUNDS = 5
BOOT_SECONDS = 120.0
MINIMAL = Path(ingredients.__file__).with_name("minimal.py")
Report = dict[str, dict[str, list[float]]]


def report(text: str) -> None:
    """Print a line at once, for people who watch from outside."""
    print(text, flush=True)


async def main(result: Path, peer_directory: Path, rounds: int) -> None:
    """Measure everything and write the report."""
    settings = load()
    library = read_krun_facts(settings.libkrun_path).library
    with tempfile.TemporaryDirectory(prefix="waggle-krun-") as name:
        work = Path(name)
        image = await image_service(settings).boot_image(
            image_references(settings)[RuntimeName.SHELL], no_progress
        )
        parts = await ingredients.prepare(work, image.disk)
        machines = Machines(settings, library, work, parts)
        report = await machines.measure(rounds)
        tree = work / "tree"
        extract = ["fsck.erofs", f"--extract={tree}", "--overwrite", str(image.disk)]
        await anyio.run_process(extract)
        msb = Peer(peer_directory / peer.PROGRAM, tree, work / "home", settings)
        async with serving() as server, connected(server.url) as client:
            report["first-result"] = await _first_results(client, msb, rounds)
    result.write_text(json.dumps(report))


async def _first_results(client: Client, msb: Peer, rounds: int) -> dict[str, list[float]]:
    return await interleave(
        {"ours": lambda: create_and_run(client), "theirs": msb.run_true}, rounds=rounds, tick=report
    )


class Peer:
    """`msb run` of the same tree with the same processors and memory."""

    def __init__(self, program: Path, tree: Path, home: Path, settings: Settings) -> None:
        self._argv = [
            *(str(program), "run", "--quiet", "--no-stdin", "--no-tty"),
            *("--cpus", str(settings.default_cpus), "--memory", f"{settings.default_memory_mb}M"),
            *(str(tree), "--", "/bin/true"),
        ]
        home.mkdir()
        self._environ = {**os.environ, "HOME": str(home), "MSB_HOME": str(home / "msb")}

    async def run_true(self) -> float:
        """Return the seconds of one run, from its start to its end."""
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(*self._argv, env=self._environ)
        if await process.wait() != 0:
            raise RuntimeError(f"msb failed with status {process.returncode}")
        return time.perf_counter() - began


class Machines:
    """The same machine, run by waggle's hypervisor and by the minimal program."""

    def __init__(self, settings: Settings, library: str, work: Path, parts: list[str]) -> None:
        self._library, self._work = library, work
        self._resources = Resources(settings.default_cpus, settings.default_memory_mb, 64)
        self._parts = parts
        kernel, kit, image, scratch, identity = parts[1:]
        self._kernel = Path(kernel)
        self._disks = GuestDisks(
            Path(kit), Path(image), Path(scratch.partition(":")[0]), Path(identity)
        )
        self._minimal = [
            *(sys.executable, "-I", "-S", str(MINIMAL), "--library", library),
            *("--cpus", str(self._resources.cpus), "--memory", str(self._resources.memory_mib)),
        ]

    async def measure(self, rounds: int) -> Report:
        """Measure the seconds to the SSH banner, and the memory at that time, of both."""
        sizes: dict[str, list[float]] = {"ours": [], "theirs": []}
        seconds = await interleave(
            {"ours": lambda: self._waggle(sizes), "theirs": lambda: self._bare(sizes)},
            rounds=rounds,
            tick=report,
        )
        return {
            "banner": seconds,
            "memory": {side: found[-rounds:] for side, found in sizes.items()},
        }

    async def _waggle(self, sizes: dict[str, list[float]]) -> float:
        spec = MachineSpec(
            id="bench",
            resources=self._resources,
            kernel=self._kernel,
            disks=self._disks,
            ssh_port=free_port(),
            console_log=self._work / "console.log",
            boot_timeout=BOOT_SECONDS,
            uid=1_900_000_000,
        )
        began = time.perf_counter()
        machine = await KrunHypervisor(self._library).boot(spec)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", spec.ssh_port)
            took = await _banner(reader, writer) - began
            sizes["ours"].append(own_bytes(machine.identity.pid, self._resources.memory_mib << 20))
        finally:
            await machine.stop()
        return took

    async def _bare(self, sizes: dict[str, list[float]]) -> float:
        socket = self._work / "minimal.sock"
        argv = [*self._minimal, "--ssh", str(socket), *self._parts]
        began = time.perf_counter()
        async with _running(argv) as (pid, console), asyncio.timeout(BOOT_SECONDS):
            while READY_LINE not in await console.readline():
                pass
            took = await _banner(*await asyncio.open_unix_connection(str(socket))) - began
            sizes["theirs"].append(own_bytes(pid, self._resources.memory_mib << 20))
        socket.unlink(missing_ok=True)
        return took


async def _banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
    """Read the banner and return the time. Raises EOFError if the other side hangs up."""
    try:
        if not (await reader.readline()).startswith(b"SSH-2.0-"):
            raise EOFError
        return time.perf_counter()
    finally:
        writer.close()


@asynccontextmanager
async def _running(argv: list[str]) -> AsyncGenerator[tuple[int, asyncio.StreamReader]]:
    """Run a program for the length of the block; yield its pid and output."""
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield process.pid, process.stdout
    finally:
        process.kill()
        await process.communicate()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))

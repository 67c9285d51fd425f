# SPDX-License-Identifier: Apache-2.0
"""A real `waggle serve` process, its machines, and proof that it leaves nothing behind.

`running(directory)` starts one and ends it; `waggle_client` talks to it. Kernel, kit, images and
templates are those of the installation; data directory and ports are the test's own.
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import (
    Generator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.to_thread
import pytest
from tests.support import leaks, server_ports, vmms
from tests.support.images import busybox_layer, write_layout
from tests.support.server_ports import PORTS_PER_SERVER, listening, next_ports

from waggle.app.hypervisors import hypervisors
from waggle.app.values import image_service
from waggle.cli.setup import surroundings
from waggle.config import PREFIX, Settings, load
from waggle.config.places import Places
from waggle.domain.errors import WaggleError
from waggle.infra.rootfs.kit import GuestKernel, GuestKit
from waggle.infra.shared.files import FileLock

START_SECONDS = 120.0  # in the lab an import takes ten times as long
STOP_SECONDS = 45.0
DEATH_SECONDS = 20.0
TEMPLATES_SECONDS = 120.0
BYTECODE = Path(__file__).parents[2] / ".cache" / "waggle-test" / "bytecode"
"""For Pythons that may not write bytecode beside sources: every start would compile for seconds."""
_KEPT = ("WAGGLE_ACCEL", "WAGGLE_HYPERVISOR", "WAGGLE_LIBKRUN_PATH", "WAGGLE_QEMU_BINARY")


@functools.cache
def installation() -> Settings:
    """Return the installation's settings. If parts are missing, fail the test with the commands.

    The image data may be missing: its few tests name it, and a bare root does not build it.
    """
    settings = load()
    places = Places.of(settings)
    present = image_service(settings).present()
    missing = [name for name, there in present.items() if not there and name != "data"]
    parts = (GuestKernel(places.guest).path, GuestKit(places.guest).path)
    missing += [str(path) for path in parts if not path.exists()]
    if missing:
        pytest.fail(
            f"Not set up, {', '.join(missing)} missing: run "
            "'waggle setup --yes --tests && waggle image build --missing' first."
        )
    return settings


@functools.cache
def network() -> Mapping[str, str]:
    """Return this machine's network settings for installing packages."""
    return surroundings(os.environ)


def environ(data: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """Return a whole process environment, without the WAGGLE_* variables of this process.

    Machines use the installation's parts unless the settings name their own cache. No template is
    made in the background: it would be a machine that tests count.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(PREFIX) or name in _KEPT
    }
    if sys.dont_write_bytecode:
        inherited |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(BYTECODE)}
    parts = {"WAGGLE_TEMPLATES": "off"}
    if "image_cache_dir" not in settings:
        cache = str(installation().image_cache_dir)
        parts = {**network(), "WAGGLE_IMAGE_CACHE_DIR": cache, "WAGGLE_TEMPLATES": "built"}
    return {
        **inherited,
        **parts,
        "WAGGLE_DATA_DIR": str(data),
        "WAGGLE_LISTEN_ADDR": "127.0.0.1:0",
        "WAGGLE_LOG_FORMAT": "json",
        **{PREFIX + name.upper(): value for name, value in settings.items()},
    }


def small(directory: Path) -> dict[str, str]:
    """Return settings for machines that start fastest: runtime shell is an image of only busybox.

    Also makes its template, which takes a boot if the installation has none yet.
    """
    _have_smallest()
    return {**_smallest(directory), "default_network": "none", "max_environments": "3"}


def _smallest(directory: Path) -> dict[str, str]:
    """Return the settings that determine the template of a machine of `small`."""
    layout = directory / "busybox"
    if not layout.exists():
        write_layout(layout, [busybox_layer()], compression="")
    return {
        "image_shell": str(layout),
        "runtime_shell_exec_command": "/bin/busybox sh {file}",
        "default_memory_mb": "192",
        "scratch_mb": "128",
    }


@functools.cache
def _have_smallest() -> None:
    """Make the template once: the image is the same in every directory."""
    with tempfile.TemporaryDirectory(prefix="waggle-small-") as place:
        _build_templates(("shell",), _smallest(Path(place)))


@functools.cache
def have_templates(*runtimes: str) -> None:
    """Make sure that runtimes have templates with the default settings.

    One of the test processes makes them, and later runs find them. If that fails, or the hypervisor
    cannot freeze, or with WAGGLE_TEST_TEMPLATES=off, machines boot: the lab would take minutes.
    """
    if os.environ.get("WAGGLE_TEST_TEMPLATES") != "off":
        _build_templates(runtimes, {})


def _build_templates(runtimes: Sequence[str], settings: Mapping[str, str]) -> None:
    cache = installation().image_cache_dir
    try:
        if hypervisors(vmms.settings()).running.freezing is None:
            return
        with FileLock(cache / "templates-of-tests.lock", timeout=TEMPLATES_SECONDS):
            words = ("template", "build", *runtimes)
            ended = command_line(*words, data=vmms.DATA, settings=settings)
        if ended.returncode != 0:
            sys.stderr.write(f"No templates, machines boot: {ended.stderr}\n")
    except (WaggleError, OSError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"No templates, machines boot: {error}\n")


def own_cache(directory: Path) -> Path:
    """Make a cache with the installation's kernel and kit, and without images."""
    directory.mkdir(parents=True)
    (directory / "guest").symlink_to(Places.of(installation()).guest)
    return directory


@dataclass(eq=False)
class Waggle:
    """A server process. `settings` are variables without prefix, as in `max_environments="2"`."""

    directory: Path
    settings: dict[str, str] = field(default_factory=dict[str, str])
    ports: range = field(default_factory=next_ports)
    expected: tuple[str, ...] = ()
    """Events that may be logged as errors."""
    user: int | None = None
    """The user and group id that it runs as; by default those of the tests."""
    module: tuple[str, ...] = ("waggle", "serve")
    """The Python module to run, and its arguments."""
    url: str = ""
    """URL of the last start; the system chooses the port."""

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.data = self.directory / "data"
        self.log = self.directory / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._read_from = 0
        server_ports.hold(self)

    @property
    def is_running(self) -> bool:
        """Whether its process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def mcp(self) -> str:
        return f"{self.url}/mcp"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    def variables(self) -> dict[str, str]:
        """Return the process environment that it runs with."""
        ports = {"ssh_port_base": str(self.ports.start), "ssh_port_max": str(self.ports.stop)}
        home = {} if self.user is None else {"HOME": str(self.directory)}
        return environ(self.data, {**ports, **self.settings}) | home

    def launch(self) -> None:
        """Start the process, without waiting for anything."""
        vmms.provide(self.data)
        self._read_from = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self.module],
                env=self.variables(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
                user=self.user,
                group=self.user,
                extra_groups=None if self.user is None else [],
            )

    def start(self) -> None:
        """Start the process and wait until it listens."""
        self.launch()
        deadline = time.monotonic() + START_SECONDS
        while not (listening := self.events("listening")):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"The server did not start:\n{self.text()}")
            time.sleep(0.02)
        self.url = str(listening[-1]["mcp"]).removesuffix("/mcp")

    def text(self) -> str:
        """Return this run's output on stderr."""
        with self.log.open("rb") as log:
            log.seek(self._read_from)
            return log.read().decode("utf-8", "replace")

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return this run's log events."""
        lines = [line for line in self.text().splitlines() if line.startswith("{")]
        found = [cast("dict[str, Any]", json.loads(line)) for line in lines]
        return [line for line in found if name is None or line["event"] == name]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Wait for the process and return its exit status."""
        return await anyio.to_thread.run_sync(lambda: self.process.wait(seconds))

    def kill(self) -> None:
        """Kill it. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def kill_and_release(self) -> None:
        """Kill it, and require that its machines end and its ports are free soon afterwards.

        The kernel ends the machines once it has ended the server; on a busy machine that takes a
        moment.
        """
        self.kill()
        deadline = time.monotonic() + DEATH_SECONDS
        while self.machines() or self.reserved():
            assert time.monotonic() < deadline, self.remains()
            time.sleep(0.02)

    def end(self) -> None:
        """Stop it as an operator does, and check its exit status. Does nothing if it has ended."""
        if self.process.poll() is not None:
            return
        self.send(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"The server did not stop:\n{self.text()[-5000:]}")
        assert status == 0, self.text()[-5000:]

    def complaints(self) -> list[str]:
        """Return the lines of this run that a healthy server never writes."""
        bad = [line for line in self.text().splitlines() if line and not line.startswith("{")]
        return bad + [
            json.dumps(event)
            for event in self.events()
            if event["level"] in ("error", "critical") and event["event"] not in self.expected
        ]

    def machines(self) -> list[int]:
        """Return the pids of this server's VMMs; those of another user's server only of QEMU."""
        return [pid for pid, port in vmms.running() if port in self.ports]

    def listeners(self) -> list[int]:
        """Return the ports of its range that have a listener."""
        return sorted(port for port in listening() if port in self.ports)

    def reserved(self) -> list[int]:
        """Return the ports of its range with a held machine-wide lock of waggle."""
        names = re.findall(r"@waggle-port-(\d+)", Path("/proc/net/unix").read_text())
        return sorted(int(port) for port in names if int(port) in self.ports)

    def descriptors(self) -> int:
        """Return the number of files and sockets that the server has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def children(self) -> list[str]:
        """Return the names of its living descendants, zombies included."""
        return leaks.children(self.process.pid)

    def directories(self) -> list[str]:
        """Return the names of environment directories."""
        places = self.data / "environments"
        return sorted(entry.name for entry in places.iterdir()) if places.is_dir() else []

    def remains(self) -> dict[str, object]:
        """Return the current remains of environments; empty if there are none."""
        found: dict[str, object] = {
            "machines": self.machines(),
            "listeners": self.listeners(),
            "reserved ports": self.reserved(),
            "directories": self.directories(),
        }
        return {name: value for name, value in found.items() if value}


@contextmanager
def running(
    directory: Path,
    settings: Mapping[str, str] | None = None,
    *,
    ports: int = PORTS_PER_SERVER,
    expected: tuple[str, ...] = (),
    user: int | None = None,
    module: tuple[str, ...] = ("waggle", "serve"),
) -> Generator[Waggle]:
    """Run a server that must end well, without complaints and without leaving anything."""
    server = Waggle(
        directory,
        dict(settings or {}),
        ports=next_ports(ports),
        expected=expected,
        user=user,
        module=module,
    )
    server.start()
    try:
        yield server
    except BaseException:
        server.kill()
        raise
    server.end()
    remains = server.remains()
    assert not remains, (remains, server.process.returncode, server.text()[-3000:])
    complaints = server.complaints()
    assert not complaints, complaints


def command_line(
    *words: str, data: Path, settings: Mapping[str, str], stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one `waggle` command to its end. `settings` as for `Waggle`."""
    return subprocess.run(
        [sys.executable, "-m", "waggle", *words],
        env=environ(data, settings),
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def beside(server: Waggle, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command as the operator of a running server does."""
    address = {"listen_addr": server.url.removeprefix("http://")}
    return command_line(*words, data=server.data, settings={**server.settings, **address})

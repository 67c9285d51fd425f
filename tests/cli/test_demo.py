# SPDX-License-Identifier: Apache-2.0
"""`waggle demo` as a newcomer runs it, and interrupts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.support import leaks
from tests.support.server_ports import next_ports
from tests.support.waggle_process import Waggle, environ, have_templates

pytestmark = [pytest.mark.vm, pytest.mark.timeout(400)]


class Demo:
    """A demo process in its own process group, as in a terminal."""

    def __init__(self, directory: Path) -> None:
        self.ports = next_ports()
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        settings = {
            "ssh_port_base": str(self.ports.start),
            "ssh_port_max": str(self.ports.stop),
            "listen_addr": "127.0.0.1:8080",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "waggle", "demo"],
            env={**environ(directory / "data", settings), "TMPDIR": str(self.temporary)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self.shown = ""

    def read_until(self, text: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.shown += line
            if text in line:
                return
        pytest.fail(f"The demo never said {text!r}:\n{self.shown}")

    def finish(self) -> tuple[int, str]:
        """Return its status and its standard output; the rest is added to `shown`."""
        out, error = self.process.communicate(timeout=240)
        self.shown += error
        return self.process.returncode, out

    def remains(self) -> dict[str, object]:
        found = Waggle(self.temporary / "unused", ports=self.ports).remains()
        (self.temporary / "unused").rmdir()
        left = sorted(path.name for path in self.temporary.iterdir())
        return {**found, **({"files": left} if left else {})}


@pytest.fixture
def demo(tmp_path: Path) -> Generator[Demo]:
    have_templates("python")
    demo = Demo(tmp_path)
    yield demo
    if demo.process.poll() is None:
        os.killpg(demo.process.pid, signal.SIGKILL)
        demo.process.wait()
    assert demo.remains() == {}


@pytest.mark.net
def test_the_whole_demo_succeeds(demo: Demo) -> None:
    status, out = demo.finish()
    assert status == 0, demo.shown
    assert out == ""
    for text in (
        "A server listens at http://127.0.0.1:",
        "Create a python environment: done in",
        "Hello from Linux",
        "written over MCP",
        "Successfully installed humanize",
        "10.5 MB",
        "is destroyed.",
        "The server has stopped.",
    ):
        assert text in demo.shown
    assert "Traceback" not in demo.shown


@pytest.mark.parametrize("when", ["Create a python environment", "Run a program"])
def test_ctrl_c_ends_the_demo(demo: Demo, when: str) -> None:
    """The terminal sends SIGINT to the demo and to its server."""
    demo.read_until(when)
    children = leaks.children(demo.process.pid)
    assert len(children) >= 1
    began = time.monotonic()
    os.killpg(demo.process.pid, signal.SIGINT)
    status, _ = demo.finish()
    assert status == 130
    assert time.monotonic() - began < 20
    assert "Traceback" not in demo.shown
    assert demo.remains() == {}


def test_sigterm_to_the_demo_alone_ends_it(demo: Demo) -> None:
    demo.read_until("Create a python environment")
    demo.process.send_signal(signal.SIGTERM)
    status, _ = demo.finish()
    assert status == 130
    assert "Traceback" not in demo.shown
    assert demo.remains() == {}

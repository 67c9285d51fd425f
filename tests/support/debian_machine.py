# SPDX-License-Identifier: Apache-2.0
"""A Debian machine with systemd on QEMU, without a network, and a root shell in it for the test.

Its ports of virtio-serial are unix sockets that hosts may dial again and again. It is emulated, so
it needs no KVM; its disk is thrown away with it. The kernel kills QEMU when the thread that started
it ends: start machines on the main thread.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from lab.machine import CPU
from tests.support.debian_base import SHELL_PORT, Base
from tests.support.programs import program

from waggle.infra.guest.client import AgentClient
from waggle.infra.guest.protocol import MAX_REQUEST, PORT

OTHER_PORT: Final = "org.qemu.guest_agent.0"
FILES: Final = "/test"
"""Where the files of a test are in the machine."""
BOOT_SECONDS: Final = 150.0
"""Limit for a boot; an idle host takes 20 s."""
_PLAIN_CPU = "svm=off,aes=off,pclmulqdq=off,sha-ni=off"
"""Features that make udev load modules."""
MEMORY_MIB: Final = 640
_CPUS = 2
_COMMAND_LINE = (
    "root=/dev/nvme0n1 rootfstype=ext4 rootflags=noinit_itable rw console=ttyS0 panic=-1 quiet"
    " random.trust_cpu=on mitigations=off audit=0 apparmor=0 systemd.show_status=no"
)
_CONSOLE_BYTES = 4_000
_MARGIN = 15.0
"""Seconds for the answer of a command that was ended at its time."""
_MOST = 1 << 24
"""Bytes of what a command prints."""


@dataclass
class Machine:
    """A machine that runs, and the test's end of its shell. One test's at a time."""

    process: subprocess.Popen[bytes]
    directory: Path
    wire: socket.socket
    boot_id: str = ""
    _rest: bytearray = field(default_factory=bytearray)

    @property
    def agent_socket(self) -> Path:
        """The socket of the agent's port."""
        return self.directory / "agent"

    @property
    def other_socket(self) -> Path:
        """The socket of the port of QEMU's own guest agent."""
        return self.directory / "other"

    def agent(self) -> AgentClient:
        """Return a client of the agent, which dials when it has to. Close it."""

        async def dial() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await asyncio.open_unix_connection(self.agent_socket, limit=MAX_REQUEST)

        return AgentClient(dial)

    def wait_up(self, seconds: float = BOOT_SECONDS) -> None:
        """Wait until the machine has booted, for the first time or again."""
        words = self._words(time.monotonic() + seconds)
        while words[0] != "up":
            words = self._words(time.monotonic() + seconds)
        self.boot_id = words[1]

    def run(self, command: str, seconds: float = 60) -> tuple[int, str]:
        """Run a shell command as root; return its exit code and all that it printed."""
        self.begin(f"timeout -k 1 {seconds:g} sh -c {shlex.quote(command)}")
        words = self._words(time.monotonic() + seconds + _MARGIN)
        assert words[0] == "done", f"the machine has booted again during {command}"
        output = base64.b64decode(words[2]) if len(words) > 2 else b""
        return int(words[1]), output.decode("utf-8", "replace")

    def begin(self, command: str) -> None:
        """Begin a shell command that ends the machine."""
        self.wire.sendall(base64.b64encode(command.encode()) + b"\n")

    def sh(self, command: str, seconds: float = 60) -> str:
        """Run a command that must succeed; return what it printed."""
        code, output = self.run(command, seconds)
        assert code == 0, f"{command}: {code}\n{output}"
        return output.strip()

    def _words(self, end: float) -> list[str]:
        while b"\n" not in self._rest:
            left = end - time.monotonic()
            self.wire.settimeout(max(0.01, left))
            try:
                data = self.wire.recv(1 << 16) if left > 0 else b""
            except TimeoutError:
                data = b""
            assert data, f"the machine says nothing (QEMU: {self.process.poll()})\n{self.console()}"
            assert len(self._rest) < _MOST
            self._rest += data
        line, _, rest = bytes(self._rest).partition(b"\n")
        self._rest[:] = rest
        return line.decode().split()

    def console(self) -> str:
        """Return the last words on the console."""
        said = (self.directory / "console").read_bytes()[-_CONSOLE_BYTES:]
        return said.decode("utf-8", "replace") + (self.directory / "log").read_text()


def _argv(base: Base, directory: Path, shell: int, memory: int) -> list[str]:
    """Return QEMU's command line. `shell` is a connected socket that it inherits."""
    return [
        *(program("setpriv"), "--pdeathsig=KILL", "--", program("qemu-system-x86_64")),
        *("-M", "q35,usb=off,vmport=off,sata=off,smbus=off,i8042=off"),
        *("-accel", "tcg,thread=multi", "-cpu", f"{CPU},{_PLAIN_CPU}"),
        *("-smp", str(_CPUS), "-m", f"{memory}M"),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny"),
        *("-kernel", str(base.kernel), "-append", _COMMAND_LINE),
        *("-chardev", f"file,id=console,path={directory}/console", "-serial", "chardev:console"),
        # The only NVMe disk: several are numbered in any order. With snapshot=on, writes go to an
        # unnamed temporary file.
        *("-drive", f"if=none,id=disk,format=raw,file={base.disk},snapshot=on"),
        *("-device", "nvme,drive=disk,serial=disk"),
        *("-drive", f"if=none,id=files,format=raw,file={directory}/files.tar,read-only=on"),
        *("-device", "virtio-blk-pci,drive=files"),
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=shell,fd={shell}"),
        *("-device", f"virtserialport,chardev=shell,name={SHELL_PORT}"),
        *("-chardev", f"socket,id=agent,path={directory}/agent,server=on,wait=off"),
        *("-device", f"virtserialport,chardev=agent,name={PORT}"),
        *("-chardev", f"socket,id=other,path={directory}/other,server=on,wait=off"),
        *("-device", f"virtserialport,chardev=other,name={OTHER_PORT}"),
        *("-device", "virtio-rng-pci"),
    ]


@contextlib.contextmanager
def booted(
    base: Base, files: Mapping[str, bytes | Path], memory: int = MEMORY_MIB
) -> Generator[Machine]:
    """Boot a machine that has these files in `FILES`. It ends, and nothing is left of it."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.fail("QEMU is not installed: run 'waggle setup --yes'")
    with tempfile.TemporaryDirectory(prefix="waggle-debian-") as name:
        directory = Path(name)
        _pack(directory / "files.tar", files, directory)
        ours, theirs = socket.socketpair()
        with ours, theirs, (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                _argv(base, directory, theirs.fileno(), memory),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "TMPDIR": name},
            )
            theirs.close()
            try:
                machine = Machine(process, directory, ours)
                machine.wait_up()
                machine.sh(f"udevadm settle; mkdir {FILES} && tar -xf /dev/vda -C {FILES}")
                yield machine
            finally:
                process.kill()
                process.wait()


def _pack(disk: Path, files: Mapping[str, bytes | Path], scratch: Path) -> None:
    with tarfile.open(disk, "w") as archive:
        for name, content in files.items():
            file = scratch / "file"
            file.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
            archive.add(file, name)

# SPDX-License-Identifier: Apache-2.0
"""The installed server of a Debian machine: its package, settings, unit, and calls to it.

The package is made of this checkout, as it is and of an earlier version with the same scripts. That
one's default settings differ, and its server does nothing: so it has no Python to compile, which
takes minutes here. The machines of the server are emulated in an emulated machine: the guest of the
smallest image boots in a minute or two. Needs root.
"""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lab.store import Store
from packages.make import Workshop, date_of, make_server
from tests.support.debian_agent import put
from tests.support.debian_machine import FILES, Machine
from tests.support.images import busybox_layer, write_layout

from packages import server, tree
from waggle import __version__
from waggle.config import load
from waggle.config.places import Places
from waggle.infra.access.tokens_file import digest
from waggle.infra.rootfs.kit import GuestKernel, GuestKit
from waggle.infra.shared.debian import OnLine

CHECKOUT: Final = Path(__file__).parents[2]
EARLIER: Final = f"{__version__}~"
MEMORY_MIB: Final = 1024
NEEDED: Final = ("python3", "qemu-system-x86", "erofs-utils", "e2fsprogs", "curl")
"""What the package depends on, since the machine has no network, and curl."""
UNIT: Final = "waggle.service"
SETTINGS: Final = "/etc/waggle/waggle.env"
TOKENS: Final = "/etc/waggle/tokens"
DATA: Final = "/var/lib/waggle"
DROP_IN: Final = f"/etc/systemd/system/{UNIT}.d/test.conf"
IDLE_SERVER: Final = """\
#!/usr/bin/python3 -sP
import os, signal, socket
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
    systemd.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
signal.pause()
"""
URL: Final = "http://127.0.0.1:8080"
ANN, BOB = "wgl_" + "a" * 43, "wgl_" + "b" * 43
OF_TESTS: Final[Mapping[str, str]] = {
    "WAGGLE_AUTH_TOKENS_FILE": TOKENS,
    "WAGGLE_AUDIT_LOG": "-",
    "WAGGLE_IMAGE_SHELL": "/opt/layout",
    "WAGGLE_BOOT_TIMEOUT": "10m",
}
START_SECONDS: Final = 120.0
"""Limit for a start or a command of waggle: Python takes 5 to 20 s here, of one idle processor."""
UPGRADE_SECONDS: Final = 400.0
"""Most of it compiles Python."""


async def make_server_packages(
    store: Store, mirror: str, place: Path, on_line: OnLine
) -> Mapping[str, Path]:
    """Make them below `place`; return the files of a machine. Raises SetupIncomplete."""
    tools = await tree.ensure(store, mirror, on_line)
    made, earlier = place / "made", place / "earlier"
    for directory in (made, earlier):
        directory.mkdir()
    epoch = date_of(CHECKOUT)
    await make_server(Workshop(tools, made, epoch, on_line))
    changed = Path(shutil.copytree(made / server.NAME, earlier / server.NAME, symlinks=True))
    shutil.rmtree(changed / server.SITE)
    control, settings = changed / "DEBIAN/control", changed / SETTINGS.lstrip("/")
    control.write_text(control.read_text().replace(f": {__version__}-", f": {EARLIER}-"))
    settings.write_text(f"{settings.read_text()}# Another default.\n")
    (changed / "usr/bin/waggle").write_text(IDLE_SERVER)
    await Workshop(tools, earlier, epoch - 86_400, on_line).step("deb.sh", server.NAME)
    return {"server.deb": _only(made), "earlier.deb": _only(earlier)}


def _only(shared: Path) -> Path:
    (found,) = (shared / "out").glob("*.deb")
    return found


def guest_files(place: Path) -> Mapping[str, bytes | Path]:
    """Return kernel, kit and the smallest image, as files of a machine. Raises SetupIncomplete."""
    settings = load()
    guest = Places.of(settings).guest
    kernel = asyncio.run(GuestKernel(guest).ensure(settings.debian_mirror))
    kit = asyncio.run(GuestKit(guest).ensure(settings.debian_mirror))
    write_layout(place / "layout", [busybox_layer()])
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(place / "layout", "layout")
    return {kernel.name: kernel, kit.name: kit, "layout.tar": packed.getvalue()}


def version_of(machine: Machine) -> str:
    """Return the version of the package that is installed."""
    return machine.sh("dpkg-query -W -f '${Version}' waggle-server")


def upgrade(machine: Machine) -> None:
    """Install the package of this checkout over the earlier one, as an operator does."""
    keep = "-o Dpkg::Options::=--force-confold"
    machine.sh(f"apt-get install -y {keep} /test/server.deb", UPGRADE_SECONDS)


def set_up(machine: Machine) -> None:
    """Do what `waggle setup` and `waggle image build` do, which need a network."""
    machine.sh(
        f"test -e {DATA}/cache/guest || {{ mkdir -p {DATA}/cache/guest &&"
        f" cp {FILES}/*.elf {FILES}/*.erofs {DATA}/cache/guest/ &&"
        f" tar -xf {FILES}/layout.tar -C /opt; }}"
    )


def tokens_of(**owners: str) -> str:
    """Return the text of a tokens file: owners, and the token of each."""
    return "".join(f"{owner} sha256:{digest(token)}\n" for owner, token in owners.items())


def prepare(machine: Machine, unit: str = "") -> bool:
    """Write the settings and tokens of tests, and a drop-in for the unit.

    Return whether any of them was different.
    """
    set_up(machine)
    lines = "".join(f"{name}={value}\n" for name, value in OF_TESTS.items())
    changes = [
        _put(machine, SETTINGS, lines),
        _put(machine, TOKENS, tokens_of(ann=ANN, bob=BOB)),
        _put(machine, DROP_IN, unit),
    ]
    machine.sh(f"chown root: {TOKENS} && chmod 600 {TOKENS}")
    return any(changes)


def use(machine: Machine, unit: str = "") -> None:
    """Have the server run with the settings and tokens of tests, and with this drop-in."""
    if prepare(machine, unit) or state(machine) != "active":
        machine.sh(f"systemctl daemon-reload && systemctl restart {UNIT}", START_SECONDS)


def enable(machine: Machine) -> None:
    """Have the server run, now and after a boot, with any settings that it can use."""
    if machine.run(f"test -e {TOKENS}")[0] != 0:
        prepare(machine)
    machine.sh(f"systemctl daemon-reload && systemctl enable --now {UNIT}", START_SECONDS)


def _put(machine: Machine, path: str, text: str) -> bool:
    put(machine, "/run/test.new", text)
    if machine.run(f"cmp -s /run/test.new {path}")[0] == 0:
        return False
    put(machine, path, text)
    return True


def state(machine: Machine) -> str:
    """Return what systemd calls the state of the server."""
    return shown(machine, "ActiveState")


def shown(machine: Machine, name: str) -> str:
    """Return a property of the unit."""
    return machine.sh(f"systemctl show -P {name} {UNIT}")


def said(machine: Machine, since: str = "") -> str:
    """Return the journal of the unit, after the line `since` that a test has written there."""
    journal = machine.sh("journalctl --sync; journalctl -o cat --no-pager -b").splitlines()
    begin = journal.index(since) + 1 if since else 0
    return "\n".join(journal[begin:])


def mark(machine: Machine, line: str) -> str:
    """Write a line into the journal and return it."""
    machine.sh(f"echo {line} | systemd-cat")
    return line


def status(machine: Machine, path: str, token: str = "") -> int:
    """Return the status code of the answer to a GET. 0: nobody listens."""
    argv = f"curl -s -o /dev/null -w '%{{http_code}}' -H 'Authorization: Bearer {token}'"
    return int(machine.run(f"{argv} {URL}{path}")[1])


def initialised(machine: Machine, token: str) -> Mapping[str, Any]:
    """Return the result of MCP's first call."""
    client = {"name": "curl", "version": "1"}
    params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client}
    call = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    put(machine, "/run/test.json", json.dumps(call))
    answer = machine.sh(
        f"curl -sS -f -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json'"
        " -H 'Accept: application/json, text/event-stream' --data-binary @/run/test.json"
        f" {URL}/mcp"
    )
    result: Mapping[str, Any] = json.loads(answer[answer.index("{") :])["result"]
    return result


def waggle(machine: Machine, words: str, seconds: float = START_SECONDS) -> str:
    """Run a command of waggle as ann; it must succeed. Return what it printed to stdout."""
    return machine.sh(f"WAGGLE_TOKEN={ANN} waggle {words} 2>/run/test.err", seconds)

# SPDX-License-Identifier: Apache-2.0
"""Fixtures: Debian machines in which the guest agent or the server was installed from its package.

All tests of a module share one machine, which takes half a minute to boot. Each says which policy
or settings it needs, and leaves the package installed.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from lab.store import Store
from tests.support.agent_packages import AgentPackages, make_agent_packages
from tests.support.debian_agent import CONFIG, use_default
from tests.support.debian_base import Base, ensure
from tests.support.debian_machine import Machine, booted
from tests.support.debian_server import (
    EARLIER,
    MEMORY_MIB,
    NEEDED,
    guest_files,
    make_server_packages,
    upgrade,
    version_of,
)

from waggle.config import load
from waggle.config.places import Places
from waggle.infra.shared import debian


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


@pytest.fixture(scope="session")
def mirror() -> str:
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: only root can make Debian systems and packages")
    return debian.mirror(load().debian_mirror)


@pytest.fixture(scope="session")
def debian_base(mirror: str) -> Base:
    """The base, from the cache if it is there."""
    store = Store(Places.of(load()).cache / "debian")
    return asyncio.run(ensure(store, mirror, say))


@pytest.fixture(scope="session")
def agent_packages(mirror: str, tmp_path_factory: pytest.TempPathFactory) -> AgentPackages:
    store = Store(Places.of(load()).cache / "packages")
    place: Path = tmp_path_factory.mktemp("packages")
    return asyncio.run(make_agent_packages(store, mirror, place, say))


@pytest.fixture(scope="module")
def machine(debian_base: Base, agent_packages: AgentPackages) -> Generator[Machine]:
    """A machine with the .deb, installed by apt. One for the package would end with the session."""
    with booted(debian_base, agent_packages.files) as running:
        running.sh("apt-get install -y /test/agent.deb", 120)
        running.sh(f"cp {CONFIG} {CONFIG}.dpkg-test")
        yield running


@pytest.fixture
def restored(machine: Machine) -> Generator[Machine]:
    """The machine, in which the .deb is installed again at the end."""
    use_default(machine)
    machine.sh(f"mv {CONFIG}.dpkg-test /run/kept; rm -f {CONFIG}.new")
    yield machine
    machine.run("dpkg -P waggle-agent; rm -rf /etc/waggle-agent; dpkg -i /test/agent.deb", 120)
    machine.sh(f"cp /run/kept {CONFIG}; cp /run/kept {CONFIG}.dpkg-test")


@pytest.fixture(scope="module")
def earlier_machine(mirror: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Machine]:
    """A machine with the server's earlier .deb, installed by apt; nothing has started it."""
    cache = Places.of(load()).cache
    place = tmp_path_factory.mktemp("server")
    files = asyncio.run(make_server_packages(Store(cache / "packages"), mirror, place, say))
    base = asyncio.run(ensure(Store(cache / "debian"), mirror, say, more=NEEDED))
    with booted(base, {**files, **guest_files(place)}, MEMORY_MIB) as running:
        running.sh("cd /test && apt-get install -y ./earlier.deb", 120)
        yield running


@pytest.fixture(scope="module")
def server_machine(earlier_machine: Machine) -> Machine:
    """That machine with the .deb of this checkout."""
    if EARLIER in version_of(earlier_machine):
        upgrade(earlier_machine)
    return earlier_machine

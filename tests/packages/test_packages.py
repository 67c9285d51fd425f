# SPDX-License-Identifier: Apache-2.0
"""The packages themselves: made twice, examined, installed, upgraded, removed and purged.

In copies of the Debian tree that makes them, where no systemd runs.
"""

from __future__ import annotations

import asyncio
import fnmatch
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab.store import Store
from packages.make import CHECKOUT, MAKERS, Workshop, date_of, make, make_agent

from packages import tree
from waggle import __version__
from waggle.config import load
from waggle.config.places import Places
from waggle.infra.shared import debian

pytestmark = [
    pytest.mark.slow,
    pytest.mark.net,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can make packages"),
]

LATER = f"{__version__}.1"
AGENT_DEB = f"waggle-agent_{__version__}-1_amd64.deb"
AGENT_RPM = f"waggle-agent-{__version__}-1.x86_64.rpm"
ARCHIVE = f"waggle-agent-{__version__}-linux-x86_64.tar.gz"
SERVER_DEB = f"waggle-server_{__version__}-1_amd64.deb"
LATER_DEB = f"waggle-agent_{LATER}-1_amd64.deb"
LATER_RPM = f"waggle-agent-{LATER}-1.x86_64.rpm"
CONFIG = "/etc/waggle-agent/config.json"
WANTED = "/etc/systemd/system/dev-virtio*org.waggle.agent.0.device.wants/waggle-agent.service"
NOT_OURS = (
    *("/var/lib/dpkg", "/var/lib/rpm", "/var/log", "/var/cache"),
    *("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/subuid", "/etc/subgid"),
    "/etc/.pwd.lock",
)
"""What package managers note, and the users that stay."""
NOTED = "/var/lib/systemd/deb-systemd-helper-"
"""What Debian notes about units until their package is purged."""


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


@pytest.fixture(scope="module")
def tools() -> Path:
    """The tree that makes the packages."""
    settings = load()
    store = Store(Places.of(settings).cache / "packages")
    return asyncio.run(tree.ensure(store, debian.mirror(settings.debian_mirror), say))


@pytest.fixture(scope="module")
def first(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A workshop in which all packages were made."""
    workshop = Workshop(tools, tmp_path_factory.mktemp("first"), date_of(CHECKOUT), say)
    asyncio.run(make(workshop, list(MAKERS), lint=False))
    return workshop


@pytest.fixture(scope="module")
def later(first: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packages of a later agent, whose policy has another default."""
    shared = tmp_path_factory.mktemp("later")
    workshop = Workshop(first.tree, shared, first.epoch + 86_400, say, version=LATER)
    asyncio.run(make_agent(workshop))
    for kind in ("deb", "rpm"):
        config = shared / f"agent-{kind}{CONFIG}"
        config.write_text(config.read_text().replace('"requests": 8', '"requests": 9'))
    asyncio.run(workshop.step("deb.sh", "agent-deb"))
    asyncio.run(workshop.step("rpm.sh", "agent-rpm", "waggle-agent.spec", "T <t@waggle.example>"))
    return shared / "out"


@dataclass
class Root:
    """A Debian that a test may change. `/mnt` has the packages."""

    path: Path
    shared: Path
    variables: Mapping[str, str]

    def run(self, script: str, *, code: int = 0) -> str:
        """Run a shell script in it, which ends with this code; return its output."""
        argv = tree.argv_in(self.path, self.shared, ["sh", "-ec", script], mode="rw")
        done = subprocess.run(
            argv,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    def files(self) -> set[str]:
        """Return the paths of all files and directories that packages may leave."""
        found = self.run("find / -xdev -print").splitlines()
        return {path for path in found if not path.startswith(NOT_OURS)}

    def has(self, pattern: str) -> bool:
        return bool(fnmatch.filter(self.files(), pattern))


@pytest.fixture
def root(first: Workshop, later: Path, tmp_path: Path) -> Root:
    shared, copy = tmp_path / "shared", tmp_path / "root"
    shared.mkdir()
    for file in (*(first.shared / "out").iterdir(), *later.iterdir()):
        (shared / file.name).hardlink_to(file)
    subprocess.run(["cp", "--archive", "--reflink=auto", first.tree, copy], check=True)
    return Root(copy, shared, tree.variables(first.epoch))


def test_a_second_run_makes_the_same_bytes(first: Workshop, tmp_path: Path) -> None:
    second = Workshop(first.tree, tmp_path, first.epoch, say)
    made = asyncio.run(make(second, list(MAKERS), lint=False))
    assert {file.name for file in made} == {AGENT_DEB, AGENT_RPM, ARCHIVE, SERVER_DEB}
    before = first.shared / "out"
    assert [f.name for f in made if f.read_bytes() != (before / f.name).read_bytes()] == []


def test_lintian_and_rpmlint_have_no_complaint(first: Workshop) -> None:
    names = sorted(file.name for file in (first.shared / "out").iterdir())
    asyncio.run(first.step("lint.sh", *names))


def test_the_program_is_small_and_needs_no_library(first: Workshop) -> None:
    program = (first.shared / "waggle-agent").read_bytes()
    assert len(program) < 400_000
    assert b"/lib/ld-" not in program
    assert str(CHECKOUT).encode() not in program


def test_the_deb_of_the_agent_from_its_installation_to_its_purge(root: Root) -> None:
    before = root.files()
    root.run(f"dpkg -i /mnt/{AGENT_DEB}; waggle-agent --check; waggle-agent --version")
    assert root.has(WANTED), "the port wants it"
    root.run("systemd-analyze verify /usr/lib/systemd/system/waggle-agent.service")
    root.run("udevadm verify /usr/lib/udev/rules.d/60-waggle-agent.rules")
    root.run("man -l --warnings -Tutf8 /usr/share/man/man8/waggle-agent.8.gz >/dev/null")
    root.run(f"""sed -i 's/"requests": 8/"requests": 7/' {CONFIG}""")

    asked = root.run(f"dpkg -i /mnt/{LATER_DEB}", code=1)
    assert f"Configuration file '{CONFIG}'" in asked
    assert "on stdin at conffile prompt" in asked
    root.run("dpkg --force-confold --configure -a")
    assert '"requests": 7' in (root.path / CONFIG.lstrip("/")).read_text()
    assert '"requests": 9' in (root.path / f"{CONFIG}.dpkg-dist".lstrip("/")).read_text()
    assert LATER in root.run("dpkg-query -W waggle-agent; zcat /usr/share/doc/waggle-agent/ch*")
    assert root.has(WANTED)

    root.run("dpkg -r waggle-agent")
    left = {CONFIG, f"{CONFIG}.dpkg-dist", "/etc/waggle-agent"}
    masked = {"/etc/systemd/system/waggle-agent.service", *wants(root)}
    assert {f for f in root.files() - before if not f.startswith(NOTED)} == left | masked
    root.run("dpkg -P waggle-agent")
    assert root.files() == before


def wants(root: Root) -> set[str]:
    """Return the directory and the link by which the port wants the agent."""
    links = fnmatch.filter(root.files(), WANTED)
    return {*links, *(link.rpartition("/")[0] for link in links)}


def test_the_rpm_of_the_agent_from_its_installation_to_its_end(root: Root) -> None:
    rpm = "rpm --dbpath /var/lib/rpm --nodeps"
    before = root.files()
    root.run(f"{rpm} -i /mnt/{AGENT_RPM}; waggle-agent --check; rpm -V --nodeps waggle-agent")
    assert root.has(WANTED)
    root.run(f"""sed -i 's/"requests": 8/"requests": 7/' {CONFIG}; {rpm} -U /mnt/{LATER_RPM}""")
    assert '"requests": 7' in (root.path / CONFIG.lstrip("/")).read_text()
    assert '"requests": 9' in (root.path / f"{CONFIG}.rpmnew".lstrip("/")).read_text()
    assert LATER in root.run("rpm -q waggle-agent")
    assert root.has(WANTED), "an upgrade disables nothing"
    root.run(f"{rpm} -e waggle-agent")
    left = {"/etc/waggle-agent", f"{CONFIG}.rpmsave", f"{CONFIG}.rpmnew", "/usr/share/licenses"}
    assert root.files() - before <= left
    assert f"{CONFIG}.rpmsave" in root.files(), "what was changed is kept"


def test_the_archive_installs_upgrades_and_removes_itself(root: Root) -> None:
    with tarfile.open(root.shared / ARCHIVE) as archive:
        archive.extractall(root.shared, filter="data")
    place = f"cd /mnt/{ARCHIVE.removesuffix('.tar.gz')}"
    before = root.files()
    said = root.run(f"{place}; ./install.sh; waggle-agent --check; ./install.sh")
    assert "there is no systemd here" in said
    root.run("systemd-analyze verify /etc/systemd/system/waggle-agent.service")
    root.run(f"""sed -i 's/"requests": 8/"requests": 7/' {CONFIG}""")
    assert f"kept {CONFIG}" in root.run(f"{place}; ./install.sh")
    assert root.has(f"{CONFIG}.new")
    root.run(f"{place}; ./uninstall.sh")
    assert CONFIG in root.files() - before
    root.run(f"{place}; ./uninstall.sh --purge")
    made = {*("/usr/local/share/man/man8", "/usr/local/share/doc"), "/usr/local/share/man"}
    assert root.files() - before <= made

    count = "find /tmp/d -type f | wc -l"
    steps = ("export DESTDIR=/tmp/d", place, "./install.sh", count, "./uninstall.sh --purge", count)
    assert root.run("; ".join(steps)).split() == ["8", "0"]
    assert root.files() - before <= made


def test_the_deb_of_the_server_from_its_installation_to_its_purge(root: Root) -> None:
    """Without the packages that it depends on."""
    before = root.files()
    install = f"dpkg --force-depends -i /mnt/{SERVER_DEB}"
    root.run(install)
    assert root.run("waggle version; stat -c %a:%U /var/lib/waggle; getent passwd waggle").split()[
        :3
    ] == ["waggle", __version__, "700:root"]
    assert not root.has("/etc/systemd/system/*/waggle.service"), "it needs a choice of who may call"
    root.run("systemd-analyze verify /usr/lib/systemd/system/waggle.service")
    said = root.run("waggle serve 2>&1", code=1)
    assert "there is no QEMU" in said
    root.run("man -l --warnings -Tutf8 /usr/share/man/man1/waggle.1.gz >/dev/null")
    root.run(
        "echo WAGGLE_AUTH_TOKENS_FILE=/etc/waggle/tokens >>/etc/waggle/waggle.env;"
        "waggle-with-settings token new ann; waggle-with-settings token ls | grep ann"
    )
    root.run(install)
    assert "\nWAGGLE_AUTH" in (root.path / "etc/waggle/waggle.env").read_text()
    root.run("dpkg -r waggle-server")
    assert not root.has("/usr/lib/waggle-server"), "compiled modules too"
    left = root.files() - before
    assert {"/etc/waggle/waggle.env", "/etc/waggle/tokens", "/var/lib/waggle"} <= left
    root.run("dpkg -P waggle-server")
    assert root.files() == before

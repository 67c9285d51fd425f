# SPDX-License-Identifier: Apache-2.0
"""Makes the packages: lays out their files, has the steps in the tree pack them, and collects them.

Called by `packages.__main__` and by the tests. Two runs of one commit give the same bytes. Whatever
fails leaves no package of this run.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from packages import agent, server, tree
from packages.stage import FILES, filled
from packages.tree import PYTHON
from waggle import __version__
from waggle.infra.shared.debian import OnLine

CHECKOUT = Path(__file__).parents[1]
MAINTAINER = "The waggle maintainers <maintainers@waggle.example>"
NO_COMMIT = 1_767_225_600
"""The date of files of a source archive, which has no commits: the beginning of 2026."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """What a run works with. `shared` is the directory that the tree shares, `epoch` its date."""

    tree: Path
    shared: Path
    epoch: int
    on_line: OnLine
    sources: Path = CHECKOUT / agent.SOURCES
    """Those of the agent."""
    version: str = __version__

    @property
    def values(self) -> dict[str, str]:
        """The values of templates that all packages have."""
        return values(self.version, self.epoch)

    async def step(self, name: str, *words: str) -> None:
        """Run a step in the tree. Raises SetupIncomplete."""
        run = (self.tree, self.shared, name, *words)
        await tree.run_step(*run, epoch=self.epoch, on_line=self.on_line)


def values(version: str, epoch: int) -> dict[str, str]:
    """Return the values of templates. Pure."""
    major, minor = PYTHON.split(".")
    date = datetime.fromtimestamp(epoch, UTC)
    return {
        "VERSION": version,
        "MAINTAINER": MAINTAINER,
        "DATE": format_datetime(date),
        "RPM_DATE": f"{date:%a %b %d %Y}",
        "PYTHON": PYTHON,
        "NEXT_PYTHON": f"{major}.{int(minor) + 1}",
        "INSTALLED_SIZE": "0",
    }


def date_of(checkout: Path) -> int:
    """Return the time of the last commit, in seconds; NO_COMMIT where there is none."""
    argv = ["git", "-C", str(checkout), "log", "-1", "--format=%ct"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return NO_COMMIT
    return int(done.stdout)


async def make_server(workshop: Workshop) -> None:
    """Make the server's package."""
    name, shared = server.NAME, workshop.shared
    with tempfile.TemporaryDirectory(dir=shared) as place:
        got = Path(place)
        wheel = await server.build_wheel(CHECKOUT, got, workshop.on_line, workshop.epoch)
        site = await server.fetch(CHECKOUT, got, workshop.on_line)
        given = {**workshop.values, "PACKAGE": name}
        server.stage(shared / name, given, site, wheel, CHECKOUT)
    await workshop.step("deb.sh", name)


async def make_agent(workshop: Workshop) -> None:
    """Make the agent's three packages."""
    shared = workshop.shared
    shutil.copytree(workshop.sources, shared / "agent-sources")
    await workshop.step("agent.sh", "agent-sources", agent.NAME)
    program = (shared / agent.NAME).read_bytes()
    given = {**workshop.values, "PACKAGE": agent.NAME}
    parts = (given, program, CHECKOUT)
    agent.stage_deb(shared / "agent-deb", *parts)
    agent.stage_rpm(shared / "agent-rpm", *parts)
    agent.stage_archive(shared / "agent-archive", *parts)
    spec = f"{agent.NAME}.spec"
    (shared / spec).write_text(filled((FILES / "agent" / spec).read_text("utf-8"), given))
    await workshop.step("deb.sh", "agent-deb")
    await workshop.step("rpm.sh", "agent-rpm", spec, MAINTAINER)
    await workshop.step(
        "archive.sh", "agent-archive", f"{agent.NAME}-{workshop.version}-linux-x86_64"
    )


Maker = Callable[[Workshop], Coroutine[Any, Any, None]]
MAKERS: Mapping[str, Maker] = {
    agent.NAME: make_agent,
    server.NAME: make_server,
}


async def make(workshop: Workshop, names: Sequence[str], *, lint: bool) -> list[Path]:
    """Make the packages of these names; return their files in `<shared>/out`.

    Raises SetupIncomplete, also for what lintian and rpmlint find if `lint`.
    """
    for name in names:
        await MAKERS[name](workshop)
    made = sorted((workshop.shared / "out").iterdir())
    if lint:
        await workshop.step("lint.sh", *(file.name for file in made))
    return made


async def deliver(made: Sequence[Path], out: Path) -> list[Path]:
    """Move the packages to `out`, where others of the same name are replaced."""
    out.mkdir(parents=True, exist_ok=True)
    return [Path(await asyncio.to_thread(shutil.move, file, out / file.name)) for file in made]

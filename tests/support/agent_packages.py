# SPDX-License-Identifier: Apache-2.0
"""The guest agent's packages, made of this checkout: as they are, and of a later version.

The later ones have another default policy, so that an upgrade would change a file that nobody has
edited. Needs root.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.store import Store
from packages.make import CHECKOUT, MAINTAINER, Workshop, date_of, make_agent
from packages.stage import FILES, filled

from packages import agent, tree
from waggle import __version__
from waggle.infra.shared.debian import OnLine

LATER = f"{__version__}.1"
_CONFIG = "etc/waggle-agent/config.json"
_SPEC = f"{agent.NAME}.spec"


@dataclass(frozen=True, slots=True)
class AgentPackages:
    """The packages for a machine."""

    deb: Path
    rpm: Path
    later_deb: Path
    later_rpm: Path

    @property
    def files(self) -> Mapping[str, Path]:
        """The packages by the names that they get in a machine."""
        return {
            "agent.deb": self.deb,
            "agent.rpm": self.rpm,
            "later.deb": self.later_deb,
            "later.rpm": self.later_rpm,
        }


async def make_agent_packages(
    store: Store, mirror: str, place: Path, on_line: OnLine
) -> AgentPackages:
    """Make them below `place`, an empty directory. Raises SetupIncomplete."""
    tools = await tree.ensure(store, mirror, on_line)
    first, later = place / "first", place / "later"
    for directory in (first, later):
        directory.mkdir()
    epoch = date_of(CHECKOUT)
    await make_agent(Workshop(tools, first, epoch, on_line))
    workshop = Workshop(tools, later, epoch + 86_400, on_line, version=LATER)
    given = {**workshop.values, "PACKAGE": agent.NAME}
    program = (first / agent.NAME).read_bytes()
    for kind, stage in (("deb", agent.stage_deb), ("rpm", agent.stage_rpm)):
        stage(later / f"agent-{kind}", given, program, CHECKOUT)
        config = later / f"agent-{kind}" / _CONFIG
        config.write_text(config.read_text().replace('"requests": 8', '"requests": 9'))
    (later / _SPEC).write_text(filled((FILES / "agent" / _SPEC).read_text("utf-8"), given))
    await workshop.step("deb.sh", "agent-deb")
    await workshop.step("rpm.sh", "agent-rpm", _SPEC, MAINTAINER)
    return AgentPackages(
        *(_only(first, kind) for kind in ("deb", "rpm")),
        *(_only(later, kind) for kind in ("deb", "rpm")),
    )


def _only(shared: Path, kind: str) -> Path:
    (found,) = (shared / "out").glob(f"*.{kind}")
    return found

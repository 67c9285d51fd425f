# SPDX-License-Identifier: Apache-2.0
"""Rules about commands that are not there. Pure."""

from __future__ import annotations

import errno
from typing import Final

from waggle.domain.diagnosis.commands import DISTRIBUTION_OF, NPM_PACKAGE_OF, PACKAGE_OF, WITHOUT
from waggle.domain.diagnosis.evidence import Evidence
from waggle.domain.diagnosis.getting import (
    has,
    node_package,
    python_package,
    system_package,
)
from waggle.domain.diagnosis.told import Diagnosis, shown
from waggle.domain.programs.execution import GuestUser

_MANAGERS: Final = ("apt-get", "apk", "dnf")
_FOREIGN: Final = frozenset({"apt", "apt-cache", "brew", "pacman", "yum", "zypper", *_MANAGERS})
_OTHER_NAMES: Final = {"python": "python3", "python2": "python3", "nodejs": "node", "pip": "pip3"}
_RUNTIMES: Final = {"node": "node", "npm": "node", "npx": "node", "python3": "python"}


def command_not_found(evidence: Evidence) -> Diagnosis | None:
    """A command is not there, as the launcher or the guest has confirmed."""
    record, name = evidence.record, evidence.command
    if record.exec_error == errno.ENOENT and not record.needs:
        name = evidence.program
    if name is None:
        return None
    if "/" in name:
        return Diagnosis(
            "command_not_found",
            f"There is no file {shown(name)}.",
            "Check the path; a relative one counts from the directory to run in (cwd).",
        )
    return Diagnosis(
        "command_not_found",
        f"There is no program {shown(name)} in this environment.",
        _advice(_get(evidence, name), _do_without(evidence, name)),
    )


def _advice(get: str, do_without: str) -> str:
    """How to get it, and what there is in its place."""
    if not (get and do_without):
        return get or f"{do_without[:1].upper()}{do_without[1:]}."
    return f"{get} Or {do_without}."


def _get(evidence: Evidence, name: str) -> str:
    other = _OTHER_NAMES.get(name)
    if other and has(evidence, other):
        return f"It is called {other} here."
    if name == "sudo":
        alone = "leave sudo out" + ("." if evidence.user is GuestUser.ROOT else ': user "root".')
        return f"Run the command as root without it: {alone}"
    if name in _FOREIGN:
        return _manager(evidence)
    if name in DISTRIBUTION_OF:
        return python_package(evidence, DISTRIBUTION_OF[name])
    if name in NPM_PACKAGE_OF:
        return node_package(evidence, NPM_PACKAGE_OF[name])
    if name in ("systemctl", "service", "journalctl"):
        return ""
    package = PACKAGE_OF.get(name)
    if package is None:
        return "Check the name and PATH, or install the package that has it, or the program itself."
    runtime = _RUNTIMES.get(name)
    first = f'An environment with runtime "{runtime}" has it. ' if runtime else ""
    return first + system_package(evidence, package)


def _manager(evidence: Evidence) -> str:
    """Which package manager the image has, for a command that is another's."""
    own = next((each for each in _MANAGERS if has(evidence, each)), None)
    if own is None and evidence.record.have is not None:
        return system_package(evidence, "")
    verb = {"apt-get": "install -y", "dnf": "install -y"}.get(own or "", "add")
    return f"The package manager here is {own}: {own} {verb} NAME, as root." if own else ""


def _do_without(evidence: Evidence, name: str) -> str:
    way = WITHOUT.get(name, "")
    if "python3" in way and not has(evidence, "python3"):
        return ""
    return way

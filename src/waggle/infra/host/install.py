# SPDX-License-Identifier: Apache-2.0
"""The installation of missing system packages: a plan to show first, then its execution.

Called by `waggle setup`. `make_plan` is pure; `carry_out` runs its commands. waggle itself runs
only apt; for other package managers, and for packages that a distribution does not have
(DETOURS), the plan holds the commands for a person to type.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from waggle.domain.errors import SetupIncomplete
from waggle.infra.host.process import run, run_attached
from waggle.infra.host.requirements import Manager, SystemPackage, find_program


@dataclass(frozen=True, slots=True)
class Detour:
    """The distribution's packages that are needed first, then the shell lines, in this order."""

    packages: tuple[str, ...]
    lines: tuple[str, ...]


# mmdebstrap is a single program; debootstrap fetches its package from debootstrap's default archive
# and checks the signature.
_MMDEBSTRAP = (
    "debootstrap --download-only --variant=minbase --include=mmdebstrap"
    " trixie /usr/local/src/mmdebstrap",
    "dpkg-deb --fsys-tarfile"
    " /usr/local/src/mmdebstrap/var/cache/apt/archives/mmdebstrap_*_all.deb"
    " | tar -x -C /usr/local --strip-components=2 ./usr/bin/mmdebstrap",
    "rm -r /usr/local/src/mmdebstrap",
)
_UMOCI_MODULE = "github.com/opencontainers/umoci@v0.6.0"
_UMOCI = (
    f"go mod download {_UMOCI_MODULE} && cd $(go list -m -f {{{{.Dir}}}} {_UMOCI_MODULE})"
    " && go build -o /usr/local/bin/umoci ./cmd/umoci",
)

DETOURS: dict[tuple[str, Manager], Detour] = {
    ("mmdebstrap", "pacman"): Detour(
        ("apt", "debian-archive-keyring", "debootstrap", "perl"), _MMDEBSTRAP
    ),
    ("umoci", "dnf"): Detour(("golang",), _UMOCI),
    ("umoci", "pacman"): Detour(("go",), _UMOCI),
}
"""By the name of the `SystemPackage` and the package manager that has no package for it."""


Privilege = Literal["root", "sudo", "none"]

_FAMILIES: dict[str, Manager] = {
    "debian": "apt",
    "ubuntu": "apt",
    "fedora": "dnf",
    "rhel": "dnf",
    "centos": "dnf",
    "arch": "pacman",
}
_OS_RELEASE = Path("/etc/os-release")
_APT_GET = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=300")


@dataclass(frozen=True, slots=True)
class Step:
    """One command and its purpose in words."""

    argv: tuple[str, ...]
    reason: str

    @property
    def command(self) -> str:
        """The command as a person types it."""
        return shlex.join(self.argv)


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps for missing packages. `can_act`: waggle may run them itself.

    `unknown` are the packages for which no name is known on this system.
    """

    missing: tuple[SystemPackage, ...]
    steps: tuple[Step, ...]
    can_act: bool
    unknown: tuple[SystemPackage, ...] = ()

    @property
    def done(self) -> bool:
        """Whether there is nothing to do."""
        return not self.missing


def make_plan(
    missing: Sequence[SystemPackage], manager: Manager | None, privilege: Privilege
) -> Plan:
    """Decide what to run, or to print, to install the `missing` packages."""
    if not missing:
        return Plan((), (), can_act=True)
    if manager is None:
        return Plan(tuple(missing), (), can_act=False, unknown=tuple(missing))
    detours = [d for package in missing if (d := DETOURS.get((package.name, manager)))]
    names = {name for package in missing if (name := package.name_for(manager))}
    names |= {name for detour in detours for name in detour.packages}
    unknown = tuple(
        package
        for package in missing
        if not package.name_for(manager) and (package.name, manager) not in DETOURS
    )
    why = "; ".join(
        f"{package.name} {package.why}" for package in missing if package not in unknown
    )
    can_act = manager == "apt" and privilege != "none" and not unknown
    # A command that a person will type needs sudo unless that person is root.
    prefix = () if privilege == "root" or manager == "brew" else ("sudo",)
    steps = _steps(manager, prefix, sorted(names), why) if names else ()
    steps += tuple(
        Step((*prefix, "sh", "-c", line), "install a program without a package for this system")
        for detour in detours
        for line in detour.lines
    )
    return Plan(tuple(missing), steps, can_act=can_act, unknown=unknown)


def _steps(
    manager: Manager, prefix: tuple[str, ...], names: Sequence[str], why: str
) -> tuple[Step, ...]:
    match manager:
        case "apt":
            install = (*_APT_GET, "install", "-y", "--no-install-recommends", *names)
            return (
                Step((*prefix, *_APT_GET, "update"), "update the list of packages"),
                Step((*prefix, *install), why),
            )
        case "dnf":
            return (Step((*prefix, "dnf", "install", "-y", *names), why),)
        case "pacman":
            return (Step((*prefix, "pacman", "-S", "--needed", *names), why),)
        case "brew":
            return (Step(("brew", "install", *names), why),)


async def carry_out(
    plan: Plan,
    say: Callable[[str], None],
    execute: Callable[[Sequence[str]], Awaitable[int]] = run_attached,
) -> None:
    """Run the steps of the plan on this terminal, reporting them through `say`. Idempotent.

    A failed `apt-get update` is only reported: the existing lists may be enough. Cancelling ends
    the running command. Raises SetupIncomplete, with the commands, when a step fails or when
    waggle may not run them.
    """
    if plan.done:
        return
    if not plan.can_act:
        raise SetupIncomplete(
            "System packages are missing: " + ", ".join(p.name for p in plan.missing) + ".",
            hint=instructions(plan),
        )
    for step in plan.steps:
        say(f"{step.command}\n  ({step.reason})")
        code = await execute(step.argv)
        if code and step is plan.steps[-1]:
            raise SetupIncomplete(f"{step.command} ended with code {code}.", hint="See above.")
        if code:
            say("  that failed; continuing with the present list")


def instructions(plan: Plan) -> str:
    """Return the commands that a person has to type, one a line."""
    lines: list[str] = []
    if plan.steps:
        lines += ["Run these commands, then 'waggle setup' again:"]
        lines += [f"  {step.command}" for step in plan.steps]
    for package in plan.unknown:
        lines.append(f"Install {package.name} ({package.why}); no package name is known here.")
    return "\n".join(lines)


def detect_manager(os_release: str, platform: str = sys.platform) -> Manager | None:
    """Return the package manager for the text of /etc/os-release and the platform."""
    if platform == "darwin":
        return "brew"
    values: dict[str, str] = {}
    for line in os_release.splitlines():
        key, _, value = line.partition("=")
        values[key.strip()] = value.strip().strip("\"'")
    for word in (values.get("ID", ""), *values.get("ID_LIKE", "").split()):
        if word in _FAMILIES:
            return _FAMILIES[word]
    return None


def this_manager() -> Manager | None:
    """Return this host's package manager."""
    try:
        text = _OS_RELEASE.read_text("utf-8", "replace")
    except OSError:
        text = ""
    return detect_manager(text)


async def detect_privilege(*, is_root: bool, interactive: bool) -> Privilege:
    """Return how commands can be run as root. `interactive`: sudo may ask for a password."""
    if is_root:
        return "root"
    if find_program("sudo") is None:
        return "none"
    if interactive:
        return "sudo"
    return "sudo" if (await run(["sudo", "-n", "true"], timeout=10)).ok else "none"

# SPDX-License-Identifier: Apache-2.0
"""Rules about missing commands, and advice on how the image gets a package. Pure.

Output of a program proves nothing: it only decides which command `service.local.diagnostician` asks
the guest for, or is reported as said. Each advice is a sentence for the tools that the image has
and the user that runs them; none names a program that the image is known to lack.
"""

from __future__ import annotations

import errno
import re
from typing import Final

from waggle.domain.diagnosis import Diagnosis, Evidence, shown
from waggle.domain.diagnosis.packages import (
    ALPINE,
    DISTRIBUTION_OF,
    NPM_PACKAGE_OF,
    PACKAGE_OF,
    WITHOUT,
)
from waggle.domain.programs import GuestUser
from waggle.domain.programs.runtime import RuntimeName

_NO_NETWORK = (
    "This environment has no network: create one with network 'public' and install {} there."
)
_NO_MANAGER = (
    "This image has no package manager: create an environment without the image parameter, or with "
    "an image that has it."
)


def has(evidence: Evidence, tool: str) -> bool:
    """Whether the image is known to have a program."""
    return tool in (evidence.record.have or ())


def as_root(evidence: Evidence, *commands: str) -> str:
    """Return these commands as root runs them, in words for the middle of a sentence."""
    if evidence.user is GuestUser.ROOT:
        return " && ".join(commands)
    if has(evidence, "sudo"):
        return " && ".join(f"sudo {command}" for command in commands)
    return f'{" && ".join(commands)} with user "root"'


def system_package(evidence: Evidence, package: str) -> str:
    """Return how to install packages of the distribution, by Debian's names with spaces between."""
    have = evidence.record.have
    if evidence.network.is_none:
        return _NO_NETWORK.format(package)
    if have is None:
        return f"Install {package} with the image's package manager, as root."
    if "apt-get" in have:
        how = as_root(evidence, "apt-get update", f"apt-get install -y {package}")
        if evidence.runtime is RuntimeName.SHELL:
            return f'Install it: install_packages with packages "{package}"; or run {how}.'
        return f"Install it: {how}."
    if "apk" in have:
        names = " ".join(ALPINE.get(name, name) for name in package.split())
        return f"Install it: {as_root(evidence, f'apk add {names}')}."
    if "dnf" in have:
        return f"Install it: {as_root(evidence, f'dnf install -y {package}')}."
    return _NO_MANAGER


def python_package(evidence: Evidence, name: str) -> str:
    """Return how to install a distribution of PyPI."""
    if evidence.network.is_none:
        return _NO_NETWORK.format(name)
    run = ""
    if has(evidence, "pip3") or has(evidence, "pip"):
        run = f"python3 -m pip install {name}"
    elif has(evidence, "uv"):
        run = f"uv pip install --system {name}"
    if evidence.runtime not in (RuntimeName.NODE, RuntimeName.SHELL):
        return _installing(name, run)
    return (
        f"Install it: {run}."
        if run
        else 'Use an environment with runtime "python": install_packages installs it there. '
        'Runtime "data" has numpy, pandas, matplotlib and the like.'
    )


def _installing(name: str, run: str) -> str:
    """Return advice to use the tool or, where that is not offered, a command."""
    return f'Install it: install_packages with packages "{name}"' + (
        f"; or run {run}." if run else "."
    )


def node_package(evidence: Evidence, name: str) -> str:
    """Return how to install a package of npm."""
    if evidence.network.is_none:
        return _NO_NETWORK.format(name)
    run = f"npm install {name}" if has(evidence, "npm") else ""
    if evidence.runtime is RuntimeName.NODE:
        return _installing(name, run)
    if run:
        return f"Install it: {run}."
    return 'Use an environment with runtime "node": install_packages installs it there.'


_MANAGERS: Final = ("apt-get", "apk", "dnf")
_FOREIGN: Final = frozenset({"apt", "apt-cache", "brew", "pacman", "yum", "zypper", *_MANAGERS})
_OTHER_NAMES: Final = {"python": "python3", "python2": "python3", "nodejs": "node", "pip": "pip3"}
_RUNTIMES: Final = {"node": "node", "npm": "node", "npx": "node", "python3": "python"}


def command_not_found(evidence: Evidence) -> Diagnosis | None:
    """Diagnose a missing command, which the launcher or the guest has confirmed."""
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
        _advice(_get(evidence, name), _alternative(evidence, name)),
    )


def _advice(get: str, alternative: str) -> str:
    """Return how to get it, and the alternative to it."""
    if not (get and alternative):
        return get or f"{alternative[:1].upper()}{alternative[1:]}."
    return f"{get} Or {alternative}."


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
    """Return which package manager the image has, for a command of another manager."""
    own = next((manager for manager in _MANAGERS if has(evidence, manager)), None)
    if own is None and evidence.record.have is not None:
        return system_package(evidence, "")
    verb = {"apt-get": "install -y", "dnf": "install -y"}.get(own or "", "add")
    return f"The package manager here is {own}: {own} {verb} NAME, as root." if own else ""


def _alternative(evidence: Evidence, name: str) -> str:
    way = WITHOUT.get(name, "")
    return "" if "python3" in way and not has(evidence, "python3") else way


_TOOLS = "apk apt-get bash curl dnf git node npm pip pip3 python3 ss sudo uv xvfb-run"
TOOLS: Final = tuple(_TOOLS.split())
"""The programs that the guest is asked for, because advice depends on them."""
_LINES = 60
_NAME = r"([A-Za-z0-9_][\w.+-]{0,63})"
_QUOTE = "[\u2018\u2019'\"`]"
_MISSING = tuple(
    re.compile(pattern, re.ASCII | re.MULTILINE)
    for pattern in (
        rf"^(?:[^\n:]{{1,200}}: )?(?:line )?\d+: {_NAME}: (?:command )?not found$",
        rf"^(?:/\S*/)?(?:ba|da|a|k|z)?sh: {_NAME}: (?:command )?not found$",
        rf"^zsh:\d*:? ?command not found: {_NAME}$",
        rf"^(?:/usr/bin/)?env: {_QUOTE}{_NAME}{_QUOTE}: No such file or directory$",
        rf"^sudo: {_NAME}: command not found$",
        rf"^(?:timeout|nohup|nice|setsid|stdbuf|time|xargs|make(?:\[\d+\])?): [^\n]{{0,80}}?"
        rf"{_QUOTE}?{_NAME}{_QUOTE}?: No such file or directory$",
        rf"\berror: command {_QUOTE}(?:\S*/)?{_NAME}{_QUOTE} failed: No such file or directory",
        rf"\bspawn {_NAME} ENOENT\b",
        rf"\bexec: \"{_NAME}\": executable file not found in \$PATH",
        rf"\berror: linker `{_NAME}` not found",
    )
)
_FILE = re.compile(
    rf"\bFileNotFoundError: \[Errno 2\] No such file or directory: '{_NAME}'$",
    re.ASCII | re.MULTILINE,
)


def last_words(evidence: Evidence) -> str:
    """Return the end of a failed run's output; empty if a signal or the timeout ended the run."""
    return "" if evidence.exit_code is None else _end(evidence.said)


def _end(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines()[-_LINES:])


def missing_command(text: str) -> str | None:
    """Return the first command that the output reports as missing."""
    text = _end(text)
    found = [match for pattern in _MISSING if (match := pattern.search(text))]
    if found:
        return min(found, key=lambda match: match.start())[1]
    match = _FILE.search(text)
    return match[1] if match and match[1] in PACKAGE_OF else None

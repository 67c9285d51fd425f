# SPDX-License-Identifier: Apache-2.0
"""How the image of an environment gets a package: by a tool that it has, as who may. Pure.

Each returns a sentence of advice. No sentence names a program that the image is known to lack.
"""

from __future__ import annotations

from waggle.domain.diagnosis.commands import ALPINE
from waggle.domain.diagnosis.evidence import Evidence
from waggle.domain.network import NetworkPolicy
from waggle.domain.programs.execution import GuestUser
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
    """These commands run by root, in words for the middle of a sentence."""
    if evidence.user is GuestUser.ROOT:
        return " && ".join(commands)
    if has(evidence, "sudo"):
        return " && ".join(f"sudo {command}" for command in commands)
    return f'{" && ".join(commands)} with user "root"'


def system_package(evidence: Evidence, package: str) -> str:
    """A package of the distribution by Debian's name; several with spaces between."""
    have = evidence.record.have
    if evidence.network is NetworkPolicy.NONE:
        return _NO_NETWORK.format(package)
    if have is None:
        return f"Install {package} with the image's package manager, as root."
    if "apt-get" in have:
        how = as_root(evidence, "apt-get update", f"apt-get install -y {package}")
        if evidence.runtime is RuntimeName.SHELL:
            return f'Install it: install_packages with packages "{package}"; or run {how}.'
        return f"Install it: {how}."
    if "apk" in have:
        names = " ".join(ALPINE.get(each, each) for each in package.split())
        return f"Install it: {as_root(evidence, f'apk add {names}')}."
    if "dnf" in have:
        return f"Install it: {as_root(evidence, f'dnf install -y {package}')}."
    return _NO_MANAGER


def python_package(evidence: Evidence, name: str) -> str:
    """A distribution of PyPI."""
    if evidence.network is NetworkPolicy.NONE:
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
        else 'Use an environment with runtime "python": install_packages installs it there.'
    )


def _installing(name: str, run: str) -> str:
    """By the tool, or where that is not offered by a command."""
    return f'Install it: install_packages with packages "{name}"' + (
        f"; or run {run}." if run else "."
    )


def node_package(evidence: Evidence, name: str) -> str:
    """A package of npm."""
    if evidence.network is NetworkPolicy.NONE:
        return _NO_NETWORK.format(name)
    run = f"npm install {name}" if has(evidence, "npm") else ""
    if evidence.runtime is RuntimeName.NODE:
        return _installing(name, run)
    if run:
        return f"Install it: {run}."
    return 'Use an environment with runtime "node": install_packages installs it there.'

# SPDX-License-Identifier: Apache-2.0
"""Rules about missing modules, libraries and headers, failed builds, and the network. Pure.

Only TCP leaves a guest (kit/guest/reach.h); its kernel counts packets that had nowhere to go.
Container engines have their own rules: the guest's kernel has nftables but none of the extensions
of iptables, which Docker's server requires unless its settings say otherwise (kit/guest/hosts.c
writes such settings where the image has none).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from waggle.domain.diagnosis import Diagnosis, Evidence, shown
from waggle.domain.diagnosis.lacking import (
    as_root,
    has,
    last_words,
    node_package,
    python_package,
    system_package,
)
from waggle.domain.diagnosis.packages import (
    PACKAGE_OF_HEADER,
    PACKAGE_OF_LIBRARY,
    SYSTEM_PACKAGE_OF,
    distribution_of,
)
from waggle.domain.network import Network
from waggle.domain.network.decisions import Decision, next_steps, summary
from waggle.domain.programs.runtime import RuntimeName

_PING: Final = re.compile(r"\bping6?: ")
_NO_PING: Final = "ping does not get out; curl -I https://HOST does."
_TCP_ONLY: Final = (
    "Use TCP to a public server, by name or IPv4 address: programs need no settings for it. UDP, "
    "ping and IPv6 do not get out."
)
_ANOTHER_NAME = "If that is no package's name, find its package, or write the module's file."


def missing_module(evidence: Evidence) -> Diagnosis | None:
    """Diagnose a module that the interpreter confirmed it does not find."""
    module = evidence.missing
    if module is None:
        return None
    is_python = module.language is RuntimeName.PYTHON
    kind = "Python" if is_python else "Node.js"
    return Diagnosis(
        "module_not_found",
        f"The {kind} module {shown(module.name)} is not installed in this environment.",
        _python(evidence, module.name) if is_python else _node(evidence, module.name),
    )


def _python(evidence: Evidence, name: str) -> str:
    top = name.partition(".")[0]
    if package := SYSTEM_PACKAGE_OF.get(top):
        return system_package(evidence, package)
    known = distribution_of(name)
    get = python_package(evidence, shown(known or top))
    return get if known else f"{get} {_ANOTHER_NAME}"


def _node(evidence: Evidence, name: str) -> str:
    parts = name.split("/")
    package = "/".join(parts[: 2 if name.startswith("@") else 1])
    return f"{node_package(evidence, shown(package))} {_ANOTHER_NAME}"


def network_refused(evidence: Evidence) -> Diagnosis | None:
    """Diagnose connections that the egress proxy refused during the run."""
    return refusal(evidence.refused, evidence.network, evidence.name)


def refusal(refused: Sequence[Decision], network: Network, environment: str) -> Diagnosis | None:
    """Say what was refused while a program ran, and what can be done; None if nothing was."""
    if not refused:
        return None
    steps = next_steps(refused, network, environment)
    return Diagnosis("network_refused", f"While it ran, {summary(refused)}", steps)


def also_refused(found: Diagnosis, refused: Sequence[Decision]) -> Diagnosis:
    """Return a diagnosis of another cause, with what was refused as well."""
    if not refused or found.code == "network_refused":
        return found
    return replace(found, cause=f"{found.cause} While it ran, {summary(refused)}")


def network_bypassed(evidence: Evidence) -> Diagnosis | None:
    """Diagnose attempts to reach the network where there is none, or by other ways than TCP."""
    record = evidence.record
    if evidence.exit_code is None or not (record.unrouted or record.unheard):
        return None
    if evidence.network.is_none:
        advice = "This environment has no network: create one with network 'public'."
    else:
        advice = _NO_PING if _PING.search(evidence.said) else _TCP_ONLY
    return Diagnosis(
        "no_direct_network",
        f"While it ran, {record.unrouted + record.unheard} packets of the environment went to "
        "addresses that cannot be reached from here, or to ports without a receiver.",
        advice,
    )


NO_NAME: Final = (
    r"Name or service not known|\bENOTFOUND\b|[Cc]ould not resolve host|unable to look up \S+"
    r"|UnknownHostException|no such host|bad address '"
)

_GIT: Final = re.compile(r"port 9418|\bgit://|^ssh: ", re.MULTILINE)


def name_unknown(evidence: Evidence, _match: re.Match[str]) -> Diagnosis | None:
    """Diagnose a host name that does not exist, where names can be looked up at all."""
    if evidence.network.is_none:
        return None
    git = (
        " Git over SSH or git:// needs a rule for its port, as HOST:22; or clone over https://."
        if _GIT.search(evidence.said)
        else ""
    )
    return Diagnosis(
        "name_not_found",
        "A host name that it used does not exist, as far as this server's host knows.",
        f"Check its spelling. Names of other environments or containers are unknown here.{git}",
    )


_LIBRARY: Final = re.compile(
    r"\b(lib[A-Za-z0-9_.+-]{1,60}?\.so(?:\.\d+){0,3}): cannot open shared object file"
    r"|Error loading shared library (lib[A-Za-z0-9_.+-]{1,60}\.so(?:\.\d+){0,3}):"
)
_HEADER: Final = re.compile(r"fatal error: ([A-Za-z0-9_./+-]{1,80}): No such file or directory")


def missing_part(evidence: Evidence) -> Diagnosis | None:
    """Diagnose a shared library or a C header that is not in the image."""
    text = last_words(evidence)
    if match := _LIBRARY.search(text):
        name = match[1] or match[2]
        package, kind = PACKAGE_OF_LIBRARY.get(name), "shared library"
    elif match := _HEADER.search(text):
        name = match[1]
        package, kind = PACKAGE_OF_HEADER.get(name), "C header"
    else:
        return None
    step = f"Install the package of the distribution that has {shown(name)}."
    if package:
        step = f"The package {package} has it. {system_package(evidence, package)}"
    if name == "libGL.so.1":
        step += " Or use opencv-python-headless in place of opencv-python."
    return Diagnosis("library_not_found", f"The {kind} {shown(name)} is not in this image.", step)


_SDISTS: Final = (
    (re.compile(r"pg_config executable not found"), "libpq-dev", "psycopg2-binary"),
    (
        re.compile(r"Can not find valid pkg-config name|mysql_config: not found"),
        "default-libmysqlclient-dev pkg-config",
        "pymysql",
    ),
)
"""Packages without wheels: how the build fails, what it needs, and the alternative to it."""
_BUILD: Final = re.compile(
    r"Failed building wheel for|Failed to build|subprocess-exited-with-error"
    r"|gyp ERR! (?:build|conf)"
)


def build_failed(evidence: Evidence) -> Diagnosis | None:
    """Diagnose an installer that had to build a package and could not."""
    text = last_words(evidence)
    for fails, needs, instead in _SDISTS:
        if fails.search(text):
            return Diagnosis(
                "build_failed",
                f"There is no wheel of it, and its build needs {needs}.",
                f"{instead} serves in its place. {python_package(evidence, instead)} "
                f"Or give the build what it needs: {_needed(evidence, needs)}.",
            )
    if not _BUILD.search(text):
        return None
    return Diagnosis(
        "build_failed",
        "The installer found no finished build of a package, and building it failed.",
        "The first error above names what is missing; or choose a version that has a wheel or a "
        f"prebuilt binary. Builds need a compiler and headers: "
        f"{_needed(evidence, 'build-essential pkg-config')}.",
    )


def _needed(evidence: Evidence, packages: str) -> str:
    if not has(evidence, "apt-get"):
        return packages
    return as_root(evidence, "apt-get update", f"apt-get install -y gcc python3-dev {packages}")


NO_IPTABLES: Final = (
    r"missing kernel module\?|^iptables\S* v\S+: can't initialize|do you need to insmod\?"
)
NO_SERVER: Final = r"Cannot connect to the Docker daemon"
NOT_ROOT: Final = (
    r"permission denied while trying to connect to the [Dd]ocker"
    r"|dockerd needs to be started with root"
)
_START: Final = "dockerd >/tmp/dockerd.log 2>&1 &"
_SETTING: Final = '"iptables": false, "ip6tables": false'


def no_iptables(evidence: Evidence, _match: re.Match[str]) -> Diagnosis:
    """Diagnose a use of iptables, where the kernel has only nftables."""
    return Diagnosis(
        "no_iptables",
        "The machine's kernel has nftables, but none of the extensions of iptables.",
        "Write rules with nft (package nftables). Docker's server does without them when "
        f"/etc/docker/daemon.json says {_SETTING}: start it again then, "
        f"{as_root(evidence, _START)}.",
    )


def no_server(evidence: Evidence, _match: re.Match[str]) -> Diagnosis:
    """Diagnose a command of Docker whose server does not run."""
    return Diagnosis(
        "no_docker_server",
        "Docker's server does not run: nothing starts it by itself.",
        f"Start it and wait some seconds: {as_root(evidence, _START)}. "
        "When it ends again, /tmp/dockerd.log says why.",
    )


def not_root(evidence: Evidence, _match: re.Match[str]) -> Diagnosis:
    """Diagnose a command of Docker by another user: its server accepts root only."""
    how = "with sudo" if has(evidence, "sudo") else 'with user "root"'
    return Diagnosis(
        "permission_denied", "Docker's server listens to root alone.", f"Run docker {how}."
    )

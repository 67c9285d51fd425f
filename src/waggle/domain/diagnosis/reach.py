# SPDX-License-Identifier: Apache-2.0
"""Rules about what a program could not find: modules, and ways into the network. Pure."""

from __future__ import annotations

from waggle.domain.diagnosis.distributions import SYSTEM_PACKAGE_OF, distribution_of
from waggle.domain.diagnosis.evidence import Evidence, Refused
from waggle.domain.diagnosis.getting import node_package, python_package, system_package
from waggle.domain.diagnosis.told import Diagnosis, shown
from waggle.domain.diagnosis.ways import way_out
from waggle.domain.network import NetworkPolicy
from waggle.domain.programs.runtime import RuntimeName

_SHOWN_REFUSALS = 3
_ANOTHER_NAME = "If that is no package's name, find its package, or write the module's file."


def missing_module(evidence: Evidence) -> Diagnosis | None:
    """The interpreter confirmed that it does not find a module."""
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
    """The egress policy refused connections meanwhile."""
    if not evidence.refused:
        return None
    unique = list(dict.fromkeys(evidence.refused))
    listed = ", ".join(_destination(each) for each in unique[:_SHOWN_REFUSALS])
    more = f" and {len(unique) - _SHOWN_REFUSALS} more" if len(unique) > _SHOWN_REFUSALS else ""
    settings = sorted({_setting(each) for each in unique})
    return Diagnosis(
        "network_refused",
        f"While it ran, the network policy refused connections to {listed}{more}.",
        "Use a public server on a permitted port. The operator can permit others with "
        f"{' and '.join(settings)}.",
    )


def _destination(refused: Refused) -> str:
    return f"{shown(refused.host)} port {refused.port} ({refused.reason})"


def _setting(refused: Refused) -> str:
    return "WAGGLE_EGRESS_PORTS" if refused.code == "port" else "WAGGLE_EGRESS_ALLOW_CIDRS"


def network_bypassed(evidence: Evidence) -> Diagnosis | None:
    """Something tried to reach the network without the proxy."""
    record = evidence.record
    if evidence.exit_code is None or not (record.unrouted or record.unheard):
        return None
    if evidence.network is NetworkPolicy.NONE:
        advice = "This environment has no network: create one with network 'public'."
    else:
        advice = way_out(evidence)
    return Diagnosis(
        "no_direct_network",
        "While it ran, something in the environment tried to reach the network or a name server "
        f"directly, {record.unrouted + record.unheard} times; there is no such way.",
        advice,
    )

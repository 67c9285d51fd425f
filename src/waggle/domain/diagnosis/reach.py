# SPDX-License-Identifier: Apache-2.0
"""Rules about what a program could not find: modules, and ways into the network. Pure."""

from __future__ import annotations

from waggle.domain.diagnosis.told import Diagnosis, shown
from waggle.domain.evidence import Evidence, Refused
from waggle.domain.network import NetworkPolicy
from waggle.domain.runtime import RuntimeName

_SHOWN_REFUSALS = 3


def missing_module(evidence: Evidence) -> Diagnosis | None:
    """The interpreter confirmed that it does not find a module."""
    module = evidence.missing
    if module is None:
        return None
    kind = "Python" if module.language is RuntimeName.PYTHON else "Node.js"
    get, how = "Install the package that provides it", " install_packages installs packages."
    if evidence.network is NetworkPolicy.NONE:
        get = "This environment has no network: create one with network 'public' and install it"
        how = ""
    return Diagnosis(
        "module_not_found",
        f"The {kind} module {shown(module.name)} is not installed in this environment.",
        f"{get} (a package may have another name than its module), or write the module's file."
        f"{how}",
    )


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
        advice = (
            "Use HTTP or HTTPS through the proxy that http_proxy and https_proxy name; it also "
            "looks up names. Other protocols (SSH, databases, ping, DNS) do not get out."
        )
    return Diagnosis(
        "no_direct_network",
        "While it ran, something in the environment tried to reach the network or a name server "
        f"directly, {record.unrouted + record.unheard} times; there is no such way.",
        advice,
    )

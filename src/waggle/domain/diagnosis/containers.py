# SPDX-License-Identifier: Apache-2.0
"""Rules about what engines of containers say when they fail inside an environment. Pure.

The guest's kernel has nftables and none of the extensions of iptables. Docker's server asks for
them unless its settings say otherwise, as those do that the kit puts where the image has none
(kit/guest/hosts.c). Nothing starts that server by itself.
"""

from __future__ import annotations

import re
from typing import Final

from waggle.domain.diagnosis.evidence import Evidence
from waggle.domain.diagnosis.getting import as_root, has
from waggle.domain.diagnosis.told import Diagnosis

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
    """The kernel was asked for what it has only as nftables."""
    return Diagnosis(
        "no_iptables",
        "The machine's kernel has nftables, but none of the extensions of iptables.",
        "Write rules with nft (package nftables). Docker's server does without them when "
        f"/etc/docker/daemon.json says {_SETTING}: start it again then, "
        f"{as_root(evidence, _START)}.",
    )


def no_server(evidence: Evidence, _match: re.Match[str]) -> Diagnosis:
    """Docker's command is there and its server does not run."""
    return Diagnosis(
        "no_docker_server",
        "Docker's server does not run: nothing starts it by itself.",
        f"Start it and wait some seconds: {as_root(evidence, _START)}. "
        "When it ends again, /tmp/dockerd.log says why.",
    )


def not_root(evidence: Evidence, _match: re.Match[str]) -> Diagnosis:
    """Docker's server takes commands from root alone."""
    how = "with sudo" if has(evidence, "sudo") else 'with user "root"'
    return Diagnosis(
        "permission_denied", "Docker's server listens to root alone.", f"Run docker {how}."
    )

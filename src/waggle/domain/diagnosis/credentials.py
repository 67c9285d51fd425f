# SPDX-License-Identifier: Apache-2.0
"""The rule about a secret's placeholder that a program sent to another host. Pure.

Inside TLS to a host of no secret nobody sees it: the server there answers that it is wrong. So the
program's message is taken together with what the proxy knows: which hosts were reached meanwhile.
"""

from __future__ import annotations

import re
from typing import Final

from waggle.domain.diagnosis import Diagnosis, Evidence, shown
from waggle.domain.diagnosis.lacking import last_words
from waggle.domain.secrets import matches

_REFUSED: Final = re.compile(
    r"Authentication failed|could not read (?:Username|Password) for|\b[Uu]nauthorized\b"
    r"|\bBad credentials\b|\bE40[13]\b|\b[Ii]nvalid (?:API |api |access )?(?:key|token)\b"
    r"|(?:error:|HTTP Error|HTTP/\d(?:\.\d)?|status(?: code)?:?) ?40[13]\b|\b40[13] Client Error"
)


def elsewhere(evidence: Evidence) -> Diagnosis | None:
    """Diagnose credentials that a host refused which gets no value of the environment's secrets."""
    if not evidence.secrets:
        return None
    text = last_words(evidence)
    if not _REFUSED.search(text):
        return None
    theirs = [host for hosts in evidence.secrets.values() for host in hosts]
    others = [
        host for host in evidence.reached if not any(matches(pattern, host) for pattern in theirs)
    ]
    named = [host for host in others if host in text]
    only_others = others if len(others) == len(evidence.reached) else []
    if not (host := next(iter(named or only_others), None)):
        return None
    allowed = "; ".join(
        f"${variable} to {', '.join(hosts)}" for variable, hosts in evidence.secrets.items()
    )
    return Diagnosis(
        "secret_elsewhere",
        f"{shown(host)} refused its credentials, and gets no secret: the values go only where "
        f"the operator says ({allowed}), and elsewhere a placeholder is worth nothing.",
        "Use the secret with its own hosts, or ask the operator to add the host to it.",
    )

# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.support.side_by_side freezes|plain`: a server with QEMU under two names.

The other name is `krun`, whose machines can be frozen, too, or only boot. So tests can run two
hypervisors side by side on a machine without hardware virtualisation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

from waggle.app.hypervisors import ADAPTERS, Adapters, Found
from waggle.app.serving import serve
from waggle.config import Settings, load
from waggle.domain.hypervisor import HypervisorName
from waggle.domain.machine import Capabilities, Resources
from waggle.infra.qemu.hypervisor import QemuHypervisor

PLAIN = Capabilities(freezes=False, stops_when_full=True)


class Another(QemuHypervisor):
    """QEMU under another name."""

    name = "krun"


def another(capabilities: Capabilities | None) -> Callable[[Settings], Found]:
    """Return the adapter of the other name, with these capabilities or QEMU's."""

    def look(settings: Settings) -> Found:
        found = ADAPTERS[HypervisorName.QEMU](settings)

        def make(
            accel: str, enclose: Callable[[Resources, int], Callable[[], None]] | None
        ) -> Another:
            made = Another(settings.qemu_binary, accel, enclose=enclose)
            made.capabilities = capabilities or made.capabilities
            return made

        can = capabilities or found.candidate.capabilities
        return replace(found, candidate=replace(found.candidate, capabilities=can), make=make)

    return look


def adapters(kind: str) -> Adapters:
    """Return all adapters, with the other one of that kind."""
    capabilities = {"freezes": None, "plain": PLAIN}[kind]
    return {**ADAPTERS, HypervisorName.KRUN: another(capabilities)}


if __name__ == "__main__":
    serve(load(), adapters=adapters(sys.argv[1]))

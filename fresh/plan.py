# SPDX-License-Identifier: Apache-2.0
"""The machines and steps of a fresh run, as data. Pure.

Read by `fresh.__main__`. A machine is a copy of the bare root; its steps run in order, whatever the
outcome of the earlier ones.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from fresh.root import ORDINARY, ROOT, User

SUITES = ("bookworm", "trixie")
MINUTE = 60.0
IN_CHECKOUT = "cd waggle && "


@dataclass(frozen=True, slots=True)
class Step:
    """A shell command as a user types it, with a deadline in seconds."""

    name: str
    command: str
    seconds: float = 15 * MINUTE


@dataclass(frozen=True, slots=True)
class Machine:
    """A copy of the bare root, prepared by root with a shell command and used by `user`.

    The user's home holds a clean clone, `waggle`, or if `without_checkout`, the wheel and this
    package's `steps`. With `beside`, the next machine need not wait for it.
    """

    name: str
    user: User
    steps: tuple[Step, ...]
    prepare: str = ""
    without_checkout: bool = False
    beside: bool = False


DEMO = Step("demo", f"{IN_CHECKOUT}./task demo")
TEST = Step("test", f"{IN_CHECKOUT}./task test", 120 * MINUTE)
# CI has the checks and all fast tests of the same commit in its ./task test. Here those suffice
# that say something about the machine (tests/phases/bare.py), if Python's version is the same.
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
QUICK = Step("test --quick", f"{IN_CHECKOUT}./task test --quick --checked {PYTHON}", 45 * MINUTE)
WITH_SUDO = (
    "apt-get -qq update && apt-get -qq install -y --no-install-recommends sudo >/dev/null"
    f" && useradd --create-home --shell /bin/bash --uid {ORDINARY.uid} {ORDINARY.name}"
    f" && echo '{ORDINARY.name} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{ORDINARY.name}"
)


WHEEL = Step("pipx and uv", "bash steps/wheel.sh ./*.whl", 30 * MINUTE)
UBUNTU = Step("demo", f"{IN_CHECKOUT}sh fresh/steps/ubuntu.sh --throw-away-root ~/waggle")


def plan(suite: str, *, quick: bool) -> tuple[Machine, ...]:
    """Return the machines and their steps, the shortest first.

    Two demos at once, if quick: apt, pip and builds of an image leave one of two cores idle most of
    the time. Otherwise machines have this one to themselves, for the sake of tests with machines.
    """
    machines = [Machine("user", ORDINARY, (DEMO,), WITH_SUDO, beside=quick)]
    if not quick:
        machines.append(Machine("wheel", ROOT, (WHEEL,), without_checkout=True))
        if suite == "trixie":  # the closest to Ubuntu
            machines.append(Machine("ubuntu", ROOT, (UBUNTU,)))
    return (*machines, Machine("root", ROOT, (DEMO, QUICK if quick else TEST)))

# SPDX-License-Identifier: Apache-2.0
"""What is tried on a machine that nobody prepared, as data. Pure.

Read by `fresh.__main__`. A machine is a copy of the bare root; its steps follow one another, each
whatever the one before came to.
"""

from __future__ import annotations

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
    """A bare root, prepared by root with a shell command, used by `user`.

    In the user's home is a clean clone, `waggle`, or `without_checkout` the wheel and this
    package's `steps`.
    """

    name: str
    user: User
    steps: tuple[Step, ...]
    prepare: str = ""
    without_checkout: bool = False


DEMO = Step("demo", f"{IN_CHECKOUT}./task demo")
TEST = Step("test", f"{IN_CHECKOUT}./task test", 120 * MINUTE)
QUICK = Step("test --quick", f"{IN_CHECKOUT}./task test --quick", 45 * MINUTE)
WITH_SUDO = (
    "apt-get -qq update && apt-get -qq install -y --no-install-recommends sudo >/dev/null"
    f" && useradd --create-home --shell /bin/bash --uid {ORDINARY.uid} {ORDINARY.name}"
    f" && echo '{ORDINARY.name} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{ORDINARY.name}"
)


WHEEL = Step("pipx and uv", "bash steps/wheel.sh ./*.whl", 30 * MINUTE)
UBUNTU = Step("demo", f"{IN_CHECKOUT}sh fresh/steps/ubuntu.sh --throw-away-root ~/waggle")


def plan(suite: str, *, quick: bool) -> tuple[Machine, ...]:
    """The machines and what is done on each, those that are soonest done first."""
    machines = [Machine("user", ORDINARY, (DEMO,), WITH_SUDO)]
    if not quick:
        machines.append(Machine("wheel", ROOT, (WHEEL,), without_checkout=True))
        if suite == "trixie":  # the nearest to Ubuntu
            machines.append(Machine("ubuntu", ROOT, (UBUNTU,)))
    return (*machines, Machine("root", ROOT, (DEMO, QUICK if quick else TEST)))

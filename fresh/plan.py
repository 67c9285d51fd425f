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
    """A bare root, prepared by root with a shell command, used by `user` from a clean clone."""

    name: str
    user: User
    steps: tuple[Step, ...]
    prepare: str = ""


DEMO = Step("demo", f"{IN_CHECKOUT}./task demo")
TEST = Step("test", f"{IN_CHECKOUT}./task test", 120 * MINUTE)
QUICK = Step("test --quick", f"{IN_CHECKOUT}./task test --quick", 45 * MINUTE)
WITH_SUDO = (
    "apt-get -qq update && apt-get -qq install -y --no-install-recommends sudo >/dev/null"
    f" && useradd --create-home --shell /bin/bash --uid {ORDINARY.uid} {ORDINARY.name}"
    f" && echo '{ORDINARY.name} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{ORDINARY.name}"
)


def plan(*, quick: bool) -> tuple[Machine, ...]:
    """The machines and what is done on each."""
    return (
        Machine("root", ROOT, (DEMO, QUICK if quick else TEST)),
        Machine("user with sudo", ORDINARY, (DEMO,), WITH_SUDO),
    )

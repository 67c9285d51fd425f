# SPDX-License-Identifier: Apache-2.0
"""`waggle setup`: system packages, guest kernel, guest kit. Idempotent; says what and why."""

from __future__ import annotations

import os
import sys

import anyio

from waggle.cli.progress import say, working
from waggle.config import Settings, load
from waggle.config.places import Places
from waggle.domain.errors import SetupIncomplete
from waggle.infra.host.install import (
    Plan,
    carry_out,
    detect_privilege,
    make_plan,
    this_manager,
)
from waggle.infra.host.kernel import GuestKernel
from waggle.infra.host.requirements import SERVE, TEST, Use, building, missing
from waggle.infra.rootfs.kit.build import GuestKit


def setup(*, yes: bool, tests: bool) -> None:
    """Do what is missing. Raises SetupIncomplete with the exact commands when it may not."""
    anyio.run(_setup, load(), yes, tests)


async def _setup(settings: Settings, yes: bool, tests: bool) -> None:
    plan = await packages_plan(tests=tests)
    if not plan.done:
        _explain(plan)
        if plan.can_act and not yes:
            _ask()
        await carry_out(plan, say)
    await _artifacts(settings)


async def packages_plan(*, tests: bool = False) -> Plan:
    """What to do about the system packages that are missing here. Changes nothing."""
    is_root = os.geteuid() == 0
    uses = SERVE | building(is_root=is_root) | (TEST if tests else frozenset[Use]())
    privilege = await detect_privilege(is_root=is_root, interactive=_interactive())
    return make_plan(missing(uses), this_manager(), privilege)


def _interactive() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _explain(plan: Plan) -> None:
    say("These system packages are missing:")
    for package in plan.missing:
        say(f"  {package.name}: {package.why}")


def _ask() -> None:
    if not _interactive():
        raise SetupIncomplete("Nobody is there to ask.", hint="Use 'waggle setup --yes'.")
    if input("Install them now? [Y/n] ").strip().lower() not in ("", "y", "yes"):
        raise SetupIncomplete("Nothing was installed.", hint="")


async def _artifacts(settings: Settings) -> None:
    places = Places.of(settings)
    kernel = GuestKernel(places.guest, settings.libkrunfw_path)
    kit = GuestKit(places.guest)
    mirror = settings.debian_mirror or None
    if not kernel.path.exists():
        with working("Fetching the guest kernel") as detail:
            await kernel.ensure(mirror, detail)
    if not kit.path.exists():
        with working("Building the guest kit") as detail:
            await kit.ensure(mirror, detail)

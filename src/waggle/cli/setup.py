# SPDX-License-Identifier: Apache-2.0
"""`waggle setup`: system packages, guest kernel, guest kit. Idempotent; prints what and why.

`surroundings` finds the settings that a network behind a mirror or an intercepting proxy needs. It
is for the demo and the tests, which must install a package wherever they run. A server never
guesses: its operator sets WAGGLE_EGRESS_ALLOW_CIDRS and WAGGLE_CA_BUNDLE.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

import anyio

from waggle.cli.progress import say, working
from waggle.config import Settings, load
from waggle.config.places import Places
from waggle.domain.errors import SetupIncomplete
from waggle.domain.hypervisor import HypervisorName
from waggle.infra.host.install import Plan, carry_out, detect_privilege, make_plan, this_manager
from waggle.infra.host.requirements import SERVE, TEST, Use, building, missing
from waggle.infra.net.policy import AddressPolicy
from waggle.infra.rootfs.full_kernel import FullKernel
from waggle.infra.rootfs.kit import GuestKernel, GuestKit
from waggle.infra.shared import debian
from waggle.infra.vmm.binaries import BinaryStore
from waggle.infra.vmm.version import Vmm


def setup(*, yes: bool, tests: bool) -> None:
    """Install what is missing. Raises SetupIncomplete, with the exact commands if not permitted."""
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
    """Return the plan for the system packages that are missing here. Changes nothing."""
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
        raise SetupIncomplete(
            "There is no terminal for the question whether to install them.",
            hint="Use 'waggle setup --yes'.",
        )
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
    full = FullKernel(places.guest)
    if _needs_full_kernel(settings) and not full.is_there:
        with working("Fetching the full guest kernel") as detail:
            await full.ensure(mirror, detail)
    if not kit.path.exists():
        with working("Building the guest kit") as detail:
            await kit.ensure(mirror, detail)


def _needs_full_kernel(settings: Settings) -> bool:
    """Whether QEMU's guests have it, or a Cloud Hypervisor is named or there: its always do."""
    programs = BinaryStore(Places.of(settings).binaries).installed()
    return (
        settings.guest_kernel == "full"
        or HypervisorName.CLOUD_HYPERVISOR in settings.hypervisor
        or any(program.vmm is Vmm.CLOUD_HYPERVISOR for program in programs)
    )


_BUNDLE_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


def surroundings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that this network needs, without those that are already set."""
    found: dict[str, str] = {}
    networks = sorted({network for host in package_hosts() for network in _unusual(host)})
    if networks:
        found["WAGGLE_EGRESS_ALLOW_CIDRS"] = ",".join(networks)
    bundle = next((environ[name] for name in _BUNDLE_VARIABLES if environ.get(name)), None)
    if bundle and Path(bundle).is_file():
        found["WAGGLE_CA_BUNDLE"] = str(Path(bundle).resolve())
    return {name: value for name, value in found.items() if not environ.get(name)}


def package_hosts() -> set[str]:
    """Return the hosts of package managers here: pip's default index and apt's mirror."""
    hosts = {_pip_constant("netloc"), _pip_constant("file_storage_domain")} - {""}
    try:
        host = urlsplit(debian.mirror(None)).hostname
    except SetupIncomplete:
        host = None
    return hosts | {host} if host else hosts


def _pip_constant(name: str) -> str:
    """Return a constant of pip; empty without pip, or with one that keeps it elsewhere."""
    try:
        module = import_module("pip._internal.models.index")
    except ImportError:
        return ""
    return str(getattr(getattr(module, "PyPI", None), name, ""))


def _unusual(host: str) -> set[str]:
    """Return the host's addresses that are not public, as networks of one address."""
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    addresses = {ipaddress.ip_address(str(answer[4][0])) for answer in answers}
    policy = AddressPolicy(())
    denied = {address for address in addresses if not policy.permits(address).allowed}
    return {f"{address}/{address.max_prefixlen}" for address in denied}

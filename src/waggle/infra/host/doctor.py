# SPDX-License-Identifier: Apache-2.0
"""The preflight checks of this host (Python, CPU, QEMU, memory, ports), and the list of all.

`waggle doctor` shows them in the order of CHECKS; other checks are in `preflight`. They close
everything that they open.
"""

from __future__ import annotations

import platform
import re
import resource
import socket
import ssl
import sys
from collections.abc import Callable, Iterable, Mapping

from waggle.domain.errors import WaggleError
from waggle.domain.hypervisor import CHOOSE_ONE, HypervisorName, in_words
from waggle.infra.host import preflight
from waggle.infra.host.hypervisors import (
    choose_acceleration,
)
from waggle.infra.host.memory import read_memory
from waggle.infra.host.preflight import SETUP, Check, CheckResult, Subject, fail, ok, warn
from waggle.infra.host.process import limits, reachable, run
from waggle.infra.host.requirements import find_program

MIN_PYTHON = (3, 11)
MIN_QEMU = (7, 0)
_PROBED_PORTS = 64
_FILES_PER_ENVIRONMENT = 32
_FILES_BASE = 1_280


async def python(_subject: Subject) -> CheckResult:
    """Check that Python is recent enough."""
    version = platform.python_version()
    if sys.version_info[:2] >= MIN_PYTHON:
        return ok("python", version)
    return fail("python", version, "Use Python 3.11 or later.")


async def architecture(_subject: Subject) -> CheckResult:
    """Check that the host is x86-64 Linux, as the guest kernel, kit and images need."""
    found = f"{platform.system()} {platform.machine()}"
    if found in {"Linux x86_64", "Linux amd64"}:
        return ok("architecture", found)
    return fail("architecture", found, "Run the server on x86-64 Linux, in a VM if need be.")


async def qemu(subject: Subject) -> CheckResult:
    """Check that QEMU exists, is recent enough and has the microvm machine."""
    program = find_program(subject.qemu_binary)
    if not _needs_qemu(subject):
        return ok("qemu", f"not needed ({program or 'not installed'})")
    if program is None:
        return fail("qemu", f"{subject.qemu_binary} was not found", SETUP)
    answer = await run([str(program), "-version"], timeout=20)
    version = parse_qemu_version(answer.stdout.decode("ascii", "replace"))
    if version is None:
        return fail("qemu", f"{program} does not report its version", answer.last_words() or SETUP)
    shown = ".".join(map(str, version))
    if version < MIN_QEMU:
        return fail("qemu", f"{shown} is too old", "Install QEMU 7.0 or later.")
    machines = await run([str(program), "-M", "help"], timeout=20)
    if not re.search(rb"^microvm\b", machines.stdout, re.MULTILINE):
        return fail("qemu", f"{shown} has no microvm machine", "Install QEMU for x86-64.")
    return ok("qemu", f"{shown} ({program})")


def parse_qemu_version(text: str) -> tuple[int, ...] | None:
    """Read the version from the output of `qemu-system-x86_64 -version`."""
    match = re.match(r"QEMU emulator version (\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in match.groups(default="0")) if match else None


async def acceleration(subject: Subject) -> CheckResult:
    """Check that KVM is usable; without it machines are emulated, which is slower."""
    try:
        accel, reason = choose_acceleration(subject.accel, subject.kvm())
    except WaggleError as error:
        return fail("acceleration", error.message, error.hint)
    if accel == "kvm" or subject.accel == "tcg":
        return ok("acceleration", f"{accel}: {reason}")
    mend = "Machines are emulated: they work, but code in them runs several times slower."
    return warn("acceleration", f"{accel}: {reason}", mend)


async def hypervisor(subject: Subject) -> CheckResult:
    """Report which hypervisors run machines, what each can, and why not the others."""
    candidates = subject.candidates()
    try:
        choice = subject.choice(candidates)
    except WaggleError as error:
        return fail("hypervisor", error.message, error.hint)
    can = {name: in_words(candidates[name].capabilities) for name in choice.names}
    able = " ".join(f"Machines of {name} {what}." for name, what in can.items())
    return ok("hypervisor", f"{', '.join(can)}: {choice.reason} {able}")


async def freezing(subject: Subject) -> CheckResult:
    """Check that machines can be frozen: templates, pauses to disk, snapshots and forks."""
    candidates = subject.candidates()
    try:
        names = subject.choice(candidates).names
    except WaggleError as error:
        return warn("snapshots", "not known before there is a hypervisor", error.hint)
    able = [name for name in names if candidates[name].capabilities.freezes]
    if not able:
        detail = f"none: {', '.join(names)} cannot freeze machines, so each boots"
        return ok("snapshots", f"{detail}. {CHOOSE_ONE}")
    if gone := [name for name in subject.qemu_older if find_program(name) is None]:
        detail = f"WAGGLE_QEMU_OLDER names missing programs: {', '.join(gone)}"
        return warn("snapshots", detail, "Their frozen machines cannot resume: restore them.")
    asked = "" if able[0] == names[0] else ", for environments created with snapshots=true"
    return ok("snapshots", f"by {able[0]}{asked}: templates, snapshots, forks, pauses to disk")


async def libkrun(subject: Subject) -> CheckResult:
    """Check that libkrun exists and is recent enough."""
    return _candidate(subject, HypervisorName.KRUN, "libkrun")


def _candidate(subject: Subject, name: HypervisorName, check: str) -> CheckResult:
    """Report whether what a hypervisor needs is there; it must be if it is demanded."""
    candidate = subject.candidates()[name]
    if not candidate.problem:
        return ok(check, "usable")
    if name in subject.hypervisor:
        return fail(check, candidate.problem, candidate.mend)
    return ok(check, f"not used: {candidate.problem}")


def _needs_qemu(subject: Subject) -> bool:
    """Return whether QEMU is demanded, or would run machines."""
    if subject.hypervisor:
        return HypervisorName.QEMU in subject.hypervisor
    try:
        return HypervisorName.QEMU in subject.choice(subject.candidates()).names
    except WaggleError:
        return True


async def memory(subject: Subject) -> CheckResult:
    """Check that there is memory for one machine, and warn if not for all that may exist."""
    free = read_memory().available >> 20
    detail = f"{free} MiB available, {subject.memory_mib} MiB per environment"
    if free < subject.memory_mib:
        return fail("memory", detail, "Free memory, or lower WAGGLE_DEFAULT_MEMORY_MB.")
    fitting = free // subject.memory_mib
    if fitting < subject.max_environments:
        mend = f"Lower WAGGLE_MAX_ENVIRONMENTS={subject.max_environments}: {fitting} fit now."
        return warn("memory", detail, mend)
    return ok("memory", detail)


async def open_files(subject: Subject) -> CheckResult:
    """Check that the server may open enough files for its connections and all environments."""
    soft, hard = limits()
    limit = reachable(soft, hard)
    needed = _FILES_BASE + _FILES_PER_ENVIRONMENT * subject.max_environments
    raised = f" (a server raises its limit of {soft} to that)" if limit != soft else ""
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return ok("open files", f"{limit} allowed{raised}")
    mend = f"Raise the hard limit: ulimit -Hn {needed}, or LimitNOFILE={needed} of its unit."
    return warn("open files", f"{limit} allowed{raised}, {needed} may be used", mend)


async def guest_ports(subject: Subject) -> CheckResult:
    """Check that a port for a machine is free."""
    ports = range(subject.port_base, subject.port_max)
    step = max(1, len(ports) // _PROBED_PORTS)
    span = f"{subject.port_base}-{subject.port_max - 1}"
    free = first_free(ports[::step]) or first_free(ports)
    if free is None:
        mend = "Set WAGGLE_SSH_PORT_BASE and WAGGLE_SSH_PORT_MAX to a range that is not in use."
        return fail("guest ports", f"none of {span} is free", mend)
    return ok("guest ports", f"{span}, {free} is free")


def first_free(ports: Iterable[int]) -> int | None:
    """Return the first port on 127.0.0.1 that can be bound."""
    return next((port for port in ports if bind_error("127.0.0.1", port) is None), None)


def bind_error(host: str, port: int) -> str | None:
    """Return why the server cannot listen on a TCP port; None when it can."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        return error.strerror or "cannot be used"
    return None


async def listen_address(subject: Subject) -> CheckResult:
    """Check that the server's address is free or held by the running server."""
    where = f"{subject.listen_host} port {subject.listen_port}"
    if subject.server_is_running:
        return ok("listen address", f"{where}, held by the running server")
    problem = bind_error(subject.listen_host, subject.listen_port)
    if problem is None:
        return ok("listen address", f"{where} is free")
    mend = "Stop the program that uses it, or set WAGGLE_LISTEN_ADDR."
    return fail("listen address", f"{where}: {problem}", mend)


async def ca_bundle(subject: Subject) -> CheckResult:
    """Check that the additional certificate authorities, if configured, are readable PEM."""
    if subject.ca_bundle is None:
        return ok("CA bundle", "none configured")
    mend = "Set WAGGLE_CA_BUNDLE to a readable PEM file with certificates."
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=subject.ca_bundle)
    except OSError as error:  # ssl.SSLError is one
        return fail("CA bundle", f"{subject.ca_bundle}: {error.strerror or error}", mend)
    count = len(context.get_ca_certs())
    if not count:
        return fail("CA bundle", f"{subject.ca_bundle} holds no CA certificate", mend)
    return ok("CA bundle", f"{subject.ca_bundle}, {count} certificates")


async def network(subject: Subject) -> CheckResult:
    """Say what environments reach unless their creator says."""
    return ok("network", subject.network)


async def network_rules(subject: Subject) -> CheckResult:
    """Check that the operator's file of network rules, if there is one, can be used as it is."""
    return _file("network rules", subject.network_rules, "names")


async def secrets(subject: Subject) -> CheckResult:
    """Check that the operator's secrets file, if there is one, can be used as it is."""
    return _file("secrets", subject.secrets, "secrets")


def _file(check: str, entries: Callable[[], int] | None, noun: str) -> CheckResult:
    """Read a file of the operator's, which returns its number of entries."""
    if entries is None:
        return ok(check, "none configured")
    try:
        return ok(check, f"{entries()} {noun}")
    except WaggleError as error:
        return fail(check, error.message, error.hint)


CHECKS: Mapping[str, Check] = {
    "python": python,
    "architecture": architecture,
    "programs": preflight.programs,
    "qemu": qemu,
    "acceleration": acceleration,
    "libkrun": libkrun,
    "hypervisor": hypervisor,
    "snapshots": freezing,
    "machine users": preflight.users,
    "machine namespaces": preflight.namespaces,
    "system calls": preflight.calls,
    "control groups": preflight.groups,
    "kernel": preflight.kernel,
    "guest kit": preflight.kit,
    "images": preflight.images,
    "build programs": preflight.build_programs,
    "data directory": preflight.data_directory,
    "memory": memory,
    "open files": open_files,
    "guest ports": guest_ports,
    "listen address": listen_address,
    "CA bundle": ca_bundle,
    "network": network,
    "network rules": network_rules,
    "secrets": secrets,
}


async def examine(subject: Subject, checks: Mapping[str, Check] = CHECKS) -> list[CheckResult]:
    """Run the checks in order. An exception in a check becomes a failed result."""
    results: list[CheckResult] = []
    for name, check in checks.items():
        try:
            results.append(await check(subject))
        except Exception as error:
            results.append(fail(name, f"the check itself failed: {error}", "Report this."))
    return results

# SPDX-License-Identifier: Apache-2.0
"""`waggle doctor`: run the preflight checks and print the results with their remedies."""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import anyio
from rich.console import Console
from rich.markup import escape

from waggle.app.hypervisors import candidates, guest_kernels
from waggle.app.network import operator_rules
from waggle.app.values import image_service
from waggle.cli.progress import print_json
from waggle.cli.setup import packages_plan
from waggle.cli.storage.image import outdated
from waggle.cli.storage.vmm import store
from waggle.config import Settings, load
from waggle.config.places import Places
from waggle.infra.access.secrets_file import load_secrets
from waggle.infra.host.doctor import examine
from waggle.infra.host.install import Plan
from waggle.infra.host.preflight import CheckResult, Status, Subject, can_run
from waggle.infra.host.process import held_by_listeners
from waggle.infra.host.vmms import Confinement, nesting, refusal, with_programs
from waggle.infra.rootfs.kit import GuestKit
from waggle.infra.shared import landlock
from waggle.infra.shared.files import FileLock

_MARKS = {Status.OK: "[green]ok  [/]", Status.WARN: "[yellow]warn[/]", Status.FAIL: "[red]fail[/]"}


def doctor(*, as_json: bool, fix: bool = False) -> int:
    """Print the results, and return 1 if the main job cannot run here, else 0.

    With `fix`, print also the commands that repair problems. Changes nothing.
    """
    settings = load()
    host = subject(settings)
    installed = store(Places.of(settings)).installed()
    refused = anyio.run(partial(refusal, is_root=host.is_root)) if installed else ""
    confinement = Confinement(
        is_root=host.is_root, landlock=landlock.version(), refused=refused, nesting=nesting()
    )
    results = with_programs(anyio.run(examine, host), installed, confinement)
    if as_json:
        print_json([asdict(result) for result in results])
    else:
        _print(results)
    if fix:
        lines = "\n".join(anyio.run(_fixes, host))
        (sys.stderr if as_json else sys.stdout).write(f"\n{lines}\n")
    return 0 if can_run(results) else 1


def subject(settings: Settings) -> Subject:
    """Return the subject of the checks, from the settings."""
    places = Places.of(settings)
    return Subject(
        data_dir=settings.data_dir,
        kernel=guest_kernels(settings),
        kit=GuestKit(places.guest).path,
        listen_host=settings.listen_addr.host,
        listen_port=settings.listen_addr.port,
        port_base=settings.ssh_port_base,
        port_max=settings.ssh_port_max,
        uid_base=settings.vm_uid_base,
        qemu_binary=settings.qemu_binary,
        qemu_older=settings.qemu_older,
        hypervisor=settings.hypervisor,
        prefer=settings.prefer,
        full_kernel=settings.guest_kernel == "full",
        candidates=partial(candidates, settings),
        accel=settings.accel,
        memory_mib=settings.default_memory_mb,
        max_environments=settings.max_environments,
        ca_bundle=settings.ca_bundle,
        network=network_words(settings),
        network_rules=(lambda: len(operator_rules(settings).sets()))
        if settings.network_rules
        else None,
        secrets=None if (file := settings.secrets_file) is None else lambda: _secrets(file),
        server_is_running=_is_locked(places) or _listens(places, settings.listen_addr.port),
        images=image_service(settings).present,
        outdated=lambda: outdated(settings),
    )


def network_words(settings: Settings) -> str:
    """Say what environments reach by default and at most. Pure."""
    usual, most = settings.usual_network, f"at most {settings.max_network}"
    if usual == settings.default_network:
        return f"{usual} by default, {most}"
    return f"{usual} by default, because WAGGLE_MAX_NETWORK allows no more"


def _secrets(file: Path) -> int:
    entries, _ = load_secrets(file)
    return len(entries)


async def _fixes(host: Subject) -> list[str]:
    """Return the lines to show for `fix`, with the commands in order."""
    plan = await packages_plan()
    parts = all(path.exists() for path in (*host.kernel, host.kit))
    images = all(host.images().values()) and not host.outdated()
    return fixes(plan, parts=parts, images=images)


def fixes(plan: Plan, *, parts: bool, images: bool) -> list[str]:
    """Return the commands that repair missing or old packages, guest parts and images. Pure."""
    lines: list[str] = []
    if not plan.done and not plan.can_act:
        lines += [step.command for step in plan.steps]
        lines += [f"(install {package.name}: {package.why})" for package in plan.unknown]
    if not plan.done or not parts:
        lines.append("waggle setup --yes")
    if not images:
        lines.append("waggle image build --missing")
    if not lines:
        return ["Nothing is missing that 'waggle setup' or 'waggle image build' could install."]
    return ["To install what is missing, run:", *(f"  {line}" for line in lines)]


def _listens(places: Places, port: int) -> bool:
    """Whether a server, perhaps with another data directory, holds the port."""
    return bool(held_by_listeners(port, places.lock.name))


def _is_locked(places: Places) -> bool:
    if not places.lock.exists():
        return False
    lock = FileLock(places.lock)
    try:
        free = lock.try_acquire()
    except OSError:
        return False
    lock.release()
    return not free


def _print(results: list[CheckResult]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for result in results:
        console.print(f"{_MARKS[result.status]} {result.name}: {escape(result.detail)}")
        if result.mend:
            console.print(f"       {escape(result.mend)}")
    if not can_run(results):
        console.print("\nEnvironments cannot be created here until the failures are repaired.")

# SPDX-License-Identifier: Apache-2.0
"""`waggle doctor`: run the preflight checks and print each with its mend."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import anyio
from rich.console import Console
from rich.markup import escape

from waggle.config import Settings, load
from waggle.hypervisors import library
from waggle.infra.files import FileLock
from waggle.infra.host.doctor import examine
from waggle.infra.host.kernel import GuestKernel
from waggle.infra.host.preflight import CheckResult, Status, Subject, can_run
from waggle.infra.rootfs.kit.build import GuestKit
from waggle.places import Places
from waggle.presets import image_service

_MARKS = {Status.OK: "[green]ok  [/]", Status.WARN: "[yellow]warn[/]", Status.FAIL: "[red]fail[/]"}


def doctor(*, as_json: bool) -> int:
    """Print the results; 1 when the main job cannot run here."""
    results = anyio.run(examine, subject(load()))
    if as_json:
        sys.stdout.write(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    else:
        _print(results)
    return 0 if can_run(results) else 1


def subject(settings: Settings) -> Subject:
    """What is checked, from the settings."""
    places = Places.of(settings)
    return Subject(
        data_dir=settings.data_dir,
        kernel=GuestKernel(places.guest, settings.libkrunfw_path).path,
        kit=GuestKit(places.guest).path,
        listen_host=settings.listen_addr.host,
        listen_port=settings.listen_addr.port,
        port_base=settings.ssh_port_base,
        port_max=settings.ssh_port_max,
        qemu_binary=settings.qemu_binary,
        qemu_older=settings.qemu_older,
        hypervisor=settings.hypervisor,
        prefer=settings.prefer,
        libkrun=lambda: library(settings),
        accel=settings.accel,
        memory_mib=settings.default_memory_mb,
        max_environments=settings.max_environments,
        ca_bundle=settings.ca_bundle,
        server_is_running=_is_locked(places),
        images=image_service(settings).present,
    )


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
        console.print("\nEnvironments cannot be created here until the failures are mended.")

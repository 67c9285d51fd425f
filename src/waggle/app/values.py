# SPDX-License-Identifier: Apache-2.0
"""The plain values that services take, made from `Settings`; the image service; the clock.

Used by `waggle.app.root`, and by commands, which avoid the root's imports: those take seconds.
"""

from __future__ import annotations

import contextlib
import functools
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from waggle.config import Settings
from waggle.config.places import Places
from waggle.domain.access import SeveralOwners, one_owner
from waggle.domain.errors import InvalidArgument, SettingsInvalid
from waggle.domain.image import AllowedImages
from waggle.domain.machine import Resources
from waggle.domain.observer import Clock
from waggle.domain.programs import Command
from waggle.domain.programs.context import CONTEXT_SECONDS, WARM, driver_argv
from waggle.domain.programs.runtime import FILE, PACKAGES, Runtime, RuntimeName, parse_template
from waggle.domain.reference import ImageReference, named_registry, parse_reference
from waggle.domain.secrets.held import Granting, NoGranting
from waggle.domain.toolset import ALL_TOOLSETS, Offer, Toolset
from waggle.infra.oci.registry.options import RegistryOptions
from waggle.infra.oci.store.select import is_local
from waggle.infra.shared.disk_room import DiskRoom
from waggle.service.environments.creating import Limits, Pausing
from waggle.service.environments.reaching import OperatorNetwork
from waggle.service.local.images.images import ImageService
from waggle.service.local.images.pulls import PullPlaces, PullPolicy
from waggle.service.local.warm_machine import WarmKind
from waggle.service.programs.execution import ExecutionLimits

AUTH_FILES = (".config/containers/auth.json", ".docker/config.json")
"""The paths below the home directory where podman and docker keep credentials."""
_WARM_SECONDS = 600.0
"""Long, because warming runs in the background, which gives way to everything else."""
_WARM_CODE = {
    RuntimeName.DATA: b"""
import io, numpy, pandas, matplotlib.pyplot
pandas.DataFrame({"x": [0, 1]}).plot()
matplotlib.pyplot.savefig(io.BytesIO())
"""
}
"""Code that most first calls begin with. Where an image lacks a module, only time is lost."""
EXTENSIONS = {
    RuntimeName.PYTHON: ".py",
    RuntimeName.NODE: ".js",
    RuntimeName.SHELL: ".sh",
    RuntimeName.DATA: ".py",
}


def offer(settings: Settings) -> Offer:
    """Return the toolsets shown to clients that do not choose, and the allowed ones.

    Raises SettingsInvalid when none of the shown tools is allowed.
    """
    shown, allowed = settings.toolsets, settings.toolsets_allowed
    if allowed is None:
        allowed = ALL_TOOLSETS if shown == frozenset({Toolset.CORE}) else shown
    found = Offer(shown, allowed)
    if not found.tools:
        raise SettingsInvalid(
            "WAGGLE_TOOLSETS names no tool that WAGGLE_TOOLSETS_ALLOWED allows.",
            hint="Name some of the allowed sets in WAGGLE_TOOLSETS.",
        )
    return found


def runtimes(settings: Settings) -> dict[RuntimeName, Runtime]:
    """Return the configured runtimes; data is python with another image."""
    python = (settings.runtime_python_exec_command, settings.runtime_python_install_command)
    commands = {
        RuntimeName.PYTHON: python,
        RuntimeName.NODE: (
            settings.runtime_node_exec_command,
            settings.runtime_node_install_command,
        ),
        RuntimeName.SHELL: (
            settings.runtime_shell_exec_command,
            settings.runtime_shell_install_command,
        ),
        RuntimeName.DATA: python,
    }
    return {
        name: Runtime(
            name,
            EXTENSIONS[name],
            parse_template(execute, FILE),
            parse_template(install, PACKAGES),
            install_as_root=name is not RuntimeName.NODE,
        )
        for name, (execute, install) in commands.items()
    }


def warm_up(settings: Settings) -> dict[RuntimeName, Command]:
    """Return the command that a machine of a runtime runs before it is frozen or kept warm.

    It loads into memory what the first calls would read from the disk.
    """
    return {name: _warming(runtime) for name, runtime in runtimes(settings).items()}


def _warming(runtime: Runtime) -> Command:
    argv, apart = runtime.code_argv()
    return Command(
        argv,
        code=_WARM_CODE.get(runtime.name, b""),
        extension=runtime.file_extension,
        apart=apart,
        timeout=_WARM_SECONDS,
        output_limit=1024,
    )


def spare_contexts(settings: Settings) -> dict[RuntimeName, Command]:
    """Return the commands of contexts that templates hold ready: Python's, which starts slowly.

    Node's takes more memory than it saves time, and a shell's starts at once.
    """
    found: dict[RuntimeName, Command] = {}
    for name, runtime in runtimes(settings).items():
        if name.language is RuntimeName.PYTHON:
            with contextlib.suppress(InvalidArgument):  # it has another interpreter
                found[name] = Command((*driver_argv(runtime), WARM), CONTEXT_SECONDS)
    return found


def warm_kinds(settings: Settings) -> dict[WarmKind, int]:
    """Return how many machines the warm pool keeps: by runtime, with a create's defaults."""
    preset = limits(settings)
    return {
        WarmKind(runtime, preset.images[runtime], preset.resources): number
        for runtime, number in settings.warm_pool
    }


def image_references(settings: Settings) -> dict[RuntimeName, str]:
    """Return the image of every runtime."""
    return {
        RuntimeName.PYTHON: settings.image_python,
        RuntimeName.NODE: settings.image_node,
        RuntimeName.SHELL: settings.image_shell,
        RuntimeName.DATA: settings.image_data,
    }


def limits(
    settings: Settings,
    several_owners: SeveralOwners = one_owner,
    rules: OperatorNetwork | None = None,
    granting: Granting | None = None,
) -> Limits:
    """Return the defaults and limits of environments."""
    return Limits(
        max_environments=settings.max_environments,
        resources=Resources(settings.default_cpus, settings.default_memory_mb, settings.scratch_mb),
        idle_timeout=timedelta(minutes=settings.default_timeout_min),
        network=settings.usual_network,
        images=image_references(settings),
        allowed=AllowedImages(
            frozenset(name for name in image_references(settings).values() if not is_local(name)),
            settings.allowed_images,
            settings.default_registry,
        ),
        per_owner=settings.max_environments_per_owner,
        several_owners=several_owners,
        disk_mib=settings.max_disk_mb_per_owner,
        most=Resources(
            max(settings.max_cpus, settings.default_cpus),
            max(settings.max_memory_mb, settings.default_memory_mb),
            max(settings.max_disk_mb, settings.scratch_mb),
        ),
        default_runtime=settings.default_runtime,
        rules=rules or OperatorNetwork(),
        granting=granting or NoGranting(),
        pausing=Pausing(
            when_idle=settings.idle_action == "pause",
            keep=settings.paused_keep,
            max_on_disk=settings.max_paused,
        ),
    )


def certificates(settings: Settings) -> bytes:
    """Return the operator's certificate authorities in PEM; empty if none are configured.

    Raises SettingsInvalid when the file cannot be read or holds none.
    """
    if settings.ca_bundle is None:
        return b""
    try:
        data = settings.ca_bundle.read_bytes()
    except OSError as error:
        raise SettingsInvalid(
            f"WAGGLE_CA_BUNDLE={settings.ca_bundle} cannot be read: {error.strerror}."
        ) from error
    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise SettingsInvalid(f"WAGGLE_CA_BUNDLE={settings.ca_bundle} holds no PEM certificate.")
    return data


def execution_limits(settings: Settings) -> ExecutionLimits:
    """Return the limits of a call's time and output."""
    return ExecutionLimits(
        wait=settings.default_exec_timeout.total_seconds(),
        max_timeout=settings.max_exec_timeout.total_seconds(),
        install_timeout=settings.install_timeout.total_seconds(),
        output=settings.output_limit,
    )


def registry_options(settings: Settings, authorities: bytes) -> RegistryOptions:
    """Return how to reach registries. `authorities` is what `certificates` returns."""
    given = settings.registry_auth_file
    return RegistryOptions(
        insecure=settings.insecure_registries,
        named=_named_registries(settings),
        mirrors=settings.registry_mirrors,
        ca_pem=authorities,
        auth_files=(given,) if given else tuple(Path.home() / name for name in AUTH_FILES),
    )


def _named_registries(settings: Settings) -> frozenset[str]:
    """Return the registries that the operator's settings name."""
    images = (*settings.allowed_images, *image_references(settings).values())
    default = f"{settings.default_registry}/any"
    return frozenset(map(named_registry, (*images, default))) | settings.registry_mirrors.keys()


@functools.cache
def _room(name: str, path: Path, reserve_mib: int) -> DiskRoom:
    """Return the one room of a directory: all parts of a server share it."""
    return DiskRoom(name, path, reserve_mib << 20)


def data_room(settings: Settings) -> DiskRoom:
    """Return the room of the data directory."""
    name = "the data directory (WAGGLE_DATA_DIR)"
    return _room(name, Places.of(settings).data, settings.disk_reserve_mb)


def cache_room(settings: Settings) -> DiskRoom:
    """Return the room of the image cache, which may be on another disk."""
    name = "the image cache (WAGGLE_IMAGE_CACHE_DIR)"
    return _room(name, Places.of(settings).cache, settings.disk_reserve_mb)


def rooms(settings: Settings) -> tuple[DiskRoom, ...]:
    """Return the rooms of all directories that the server writes to."""
    return data_room(settings), cache_room(settings)


def image_reference(settings: Settings, text: str) -> ImageReference:
    """Parse a user's text as a reference to an image of a registry. Raises InvalidArgument."""
    return parse_reference(text, settings.default_registry)


def image_service(
    settings: Settings,
    several_owners: SeveralOwners = one_owner,
    authorities: bytes | None = None,
) -> ImageService:
    """Return the service of images and disks.

    `authorities` is what `certificates` returns; None reads it. Raises SettingsInvalid then.
    """
    places = Places.of(settings)
    authorities = certificates(settings) if authorities is None else authorities
    return ImageService(
        store=places.images,
        disks=places.disks,
        layers=places.layers,
        runtimes=image_references(settings),
        pulling=PullPolicy(
            registry_options(settings, authorities),
            settings.image_pull,
            settings.default_registry,
        ),
        places=PullPlaces(settings.max_pulls, several_owners),
        room=cache_room(settings),
    )


def steady_clock() -> Clock:
    """Return the clock of a server: it starts at the wall clock's time and never jumps.

    It continues with the monotonic clock. See `waggle.domain.observer.Clock`.
    """
    start, origin = datetime.now(UTC), time.monotonic()
    return lambda: start + timedelta(seconds=time.monotonic() - origin)

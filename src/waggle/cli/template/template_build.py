# SPDX-License-Identifier: Apache-2.0
"""`waggle template build`: make the templates of the configured runtimes, without a server."""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import anyio

from waggle.app.hypervisors import hypervisor
from waggle.app.logs import configure_logging
from waggle.app.machines import Machinery, machinery, templates
from waggle.app.values import image_service, limits
from waggle.cli.progress import filling, say, working
from waggle.config import Settings, load
from waggle.domain.access import LOCAL
from waggle.domain.errors import SettingsInvalid, Unsupported
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.ssh.connection import new_keys
from waggle.service.environments.creating import CreateRequest
from waggle.service.local.blueprint import Blueprint, MadeOf
from waggle.service.local.bring_up import identity_of
from waggle.service.local.frozen.templates import Templates

_NOWHERE = Path("/nonexistent")
"""Where its files would be: whoever makes a template has a place of its own."""


def build(names: Sequence[str]) -> None:
    """Make what is not there, and print the ids of all.

    Raises InvalidRuntime, SettingsInvalid, Unsupported, ImageMissing, BootFailed and the like.
    """
    settings = load()
    wanted = [RuntimeName.parse(name) for name in names] or [*RuntimeName]
    if settings.templates == "off":
        raise SettingsInvalid(
            "WAGGLE_TEMPLATES=off: a server of these settings would use no template.",
            hint="Set WAGGLE_TEMPLATES=built or on, for this command and for the server.",
        )
    configure_logging(settings.log_level, settings.log_format)  # to stderr
    chosen = hypervisor(settings)
    with contextlib.ExitStack() as stack:
        made = machinery(settings, chosen.hypervisor, stack)
        anyio.run(_build, settings, made, wanted, stack)


async def _build(
    settings: Settings,
    made: Machinery,
    wanted: Sequence[RuntimeName],
    stack: contextlib.ExitStack,
) -> None:
    found = templates(settings, made, None, stack)
    if found is None:
        raise Unsupported(
            "libkrun runs the machines here, and cannot freeze them.",
            hint="Set WAGGLE_PREFER=speed or WAGGLE_HYPERVISOR=qemu, for the server, too.",
        )
    for runtime in wanted:
        await _ensure(settings, made, found, runtime)


async def _ensure(
    settings: Settings, made: Machinery, found: Templates, runtime: RuntimeName
) -> None:
    blueprint = await blueprint_for(settings, made, runtime)
    with working(f"Making the template of {runtime}"):
        template, new = await found.ensure(blueprint)
    if not new:
        say(f"{runtime} had one already.")
    sys.stdout.write(f"{template}\n")
    sys.stdout.flush()


async def blueprint_for(settings: Settings, made: Machinery, runtime: RuntimeName) -> Blueprint:
    """What the server would boot for a client that names only this runtime."""
    environment = limits(settings).describe(
        CreateRequest(runtime),
        environment_id=str(uuid.uuid4()),
        owner=LOCAL,
        now=datetime.now(UTC),
    )
    with filling(f"Preparing the image {environment.image}") as show:

        async def report(share: float, text: str) -> None:
            show(share, text)

        image = await image_service(settings).boot_image(environment.image, report)
    parts = made.parts
    made_of = MadeOf(runtime, image, parts.kernel(), parts.kit(), environment.resources)
    identity = identity_of(
        image, new_keys(), environment.name, environment.network, certificates=parts.certificates
    )
    return Blueprint(_NOWHERE.name, made_of, identity, _NOWHERE, LOCAL)

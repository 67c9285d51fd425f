# SPDX-License-Identifier: Apache-2.0
"""`waggle template ls|rm|prune|build`, without a server. A running server notices the changes.

`build` makes the templates of the configured runtimes; the others only use files.
"""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import anyio

from waggle.app.hypervisors import hypervisors
from waggle.app.machines import Machinery, machinery, templates
from waggle.app.process import configure_logging
from waggle.app.values import certificates, image_service, limits
from waggle.cli import ids
from waggle.cli.durations import parse_option
from waggle.cli.progress import filling, print_json, print_table, say, working
from waggle.cli.storage.image import iso
from waggle.config import Settings, load
from waggle.config.places import Places
from waggle.domain.access import LOCAL
from waggle.domain.errors import SettingsInvalid, Unsupported
from waggle.domain.hypervisor import CHOOSE_ONE, ByHypervisor
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.ssh import new_keys
from waggle.infra.store.frozen_files import TemplateStore
from waggle.service.environments.creating import CreateRequest
from waggle.service.local.blueprint import Blueprint, MachineParts
from waggle.service.local.frozen.templates import NoTemplates, Templates
from waggle.service.local.start import identity_of

_TABLE_WIDTH = 120
_COLUMNS = ("id", "image", "cpus", "memory", "size", "used")
_NOTHING = (
    "No templates. The server makes them in the background after a first boot,"
    " and 'waggle template build' makes them now."
)


def ls(*, as_json: bool) -> None:
    """Print the templates as a table, or as a JSON list."""
    templates = _store().all()
    if as_json:
        print_json(
            [
                {
                    "id": template.key.id,
                    "bytes": template.size,
                    "created": iso(template.created_at.timestamp()),
                    "used": iso(template.used_at.timestamp()),
                    "parts": dict(template.key.parts),
                }
                for template in templates
            ]
        )
        return
    cells = [
        (
            template.key.id,
            template.key.parts.get("image", "")[:19],
            template.key.parts.get("cpus", ""),
            f"{template.key.parts.get('memory_mib', '')} MiB",
            f"{template.size / 1e6:.1f} MB",
            iso(template.used_at.timestamp())[:16],
        )
        for template in templates
    ]
    print_table(_COLUMNS, cells, _NOTHING, _TABLE_WIDTH)


def rm(wanted: Sequence[str]) -> None:
    """Remove templates by the ids that `ls` shows, all or none, and print the ids."""
    store = _store()
    ids.require("template", wanted, {template.key.id for template in store.all()})
    for template_id in wanted:
        store.remove(template_id)
        sys.stdout.write(f"{template_id}\n")


def prune(older_than: str) -> None:
    """Remove templates not used for this long, and print their ids. Raises InvalidArgument."""
    before = datetime.now(UTC) - parse_option("--older-than", older_than)
    store = _store()
    store.sweep()
    old = [template for template in store.all() if template.used_at <= before]
    for template in old:
        store.remove(template.key.id)
        sys.stdout.write(f"{template.key.id}\n")
    say(f"{len(old)} templates removed, {sum(template.size for template in old) / 1e6:.1f} MB.")


def _store() -> TemplateStore:
    return TemplateStore(Places.of(load()).templates)


_NOWHERE = Path("/nonexistent")
"""The directory of the blueprint's machine. Not used: making a template uses its own directory."""


def build(names: Sequence[str]) -> None:
    """Make missing templates, and print the ids of all.

    Raises InvalidRuntime, SettingsInvalid, Unsupported, ImageMissing, BootFailed and others.
    """
    settings = load()
    wanted = [RuntimeName.parse(name) for name in names] or [*RuntimeName]
    if settings.templates == "off":
        raise SettingsInvalid(
            "WAGGLE_TEMPLATES=off: a server of these settings would use no template.",
            hint="Set WAGGLE_TEMPLATES=built or on, for this command and for the server.",
        )
    configure_logging(settings.log_level, settings.log_format)  # to stderr
    chosen = hypervisors(settings)
    with contextlib.ExitStack() as stack:
        made = machinery(settings, chosen.running, certificates(settings), stack)
        anyio.run(_build, settings, made, wanted, stack)


async def _build(
    settings: Settings,
    made: ByHypervisor[Machinery],
    wanted: Sequence[RuntimeName],
    stack: contextlib.ExitStack,
) -> None:
    found = templates(settings, made, None, stack)
    own = made.freezing
    if own is None or isinstance(found, NoTemplates):
        raise Unsupported(
            f"No hypervisor here can freeze machines: {made.names}.",
            hint=f"{CHOOSE_ONE} Do so for the server, too.",
        )
    for runtime in wanted:
        await _ensure(settings, own, found, runtime)


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
    """Return what the server would boot for a client that names only this runtime."""
    environment = limits(settings).describe(
        CreateRequest(runtime),
        environment_id=str(uuid.uuid4()),
        owner=LOCAL,
        now=datetime.now(UTC),
    )
    with filling(f"Preparing the image {environment.image}") as show:

        async def report(share: float, text: str) -> None:
            show(share, text)

        image = await image_service(settings, authorities=made.parts.certificates).boot_image(
            environment.image, report
        )
    shared = made.parts
    parts = MachineParts(runtime, image, shared.kernel(), shared.kit(), environment.resources)
    identity = identity_of(
        *(image, new_keys(), environment.name, environment.network),
        machine=environment.id,
        certificates=shared.certificates,
    )
    return Blueprint(parts, identity, _NOWHERE, LOCAL)

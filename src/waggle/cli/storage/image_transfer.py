# SPDX-License-Identifier: Apache-2.0
"""`waggle image pull|push|load|save`: copy images between the store, registries and files.

Prints the name of the image to stdout, everything else to stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import anyio

from waggle.app.values import certificates, image_reference, image_service, registry_options
from waggle.cli.progress import filling, say
from waggle.cli.storage.image import make_disk
from waggle.config import load as load_settings
from waggle.domain.errors import ImageCorrupt
from waggle.infra.oci.registry import Puller
from waggle.infra.oci.registry.options import Transfer
from waggle.infra.oci.store.select import Form
from waggle.infra.oci.transfer import export
from waggle.infra.oci.transfer import load as load_file
from waggle.service.local.images.images import ImageService
from waggle.service.local.images.pulls import describe


def pull(text: str, *, as_json: bool) -> None:
    """Pull an image from a registry and make its disk."""
    settings = load_settings()
    reference = image_reference(settings, text)
    images = image_service(settings)
    with filling(f"Pulling {reference}") as show:
        anyio.run(images.pulls.pull, reference, _shown(show))
    images.store.collect()  # the image that had the name before
    _finish(images, str(reference), as_json=as_json)


def push(name: str, text: str | None, *, as_json: bool) -> None:
    """Send an image of the store to a registry."""
    settings = load_settings()
    authorities = certificates(settings)
    images = image_service(settings, authorities=authorities)
    known, _ = images.store.find(name)
    reference = image_reference(settings, text or known)
    store = images.store
    puller = Puller(store.layout, registry_options(settings, authorities), platform=store.platform)
    with filling(f"Pushing {reference}") as show:
        digest = anyio.run(puller.push, known, reference, _shown(show))
    _report(str(reference), digest, None, as_json=as_json)


def load(source: str, name: str | None, *, as_json: bool) -> None:
    """Load an image from files and make its disk."""
    images = image_service(load_settings())
    if Path(source.partition(":")[0]).is_file():
        source = f"{Path.cwd() / source}"
    with filling(f"Loading {source}") as show:
        stored = load_file(_absolute(source), images.store, name, show)
    _finish(images, stored, as_json=as_json)


def save(name: str, target: str) -> None:
    """Write an image of the store to files."""
    images = image_service(load_settings())
    with filling(f"Saving {name}") as show:
        export.save(images.store, name, _absolute(target), show)


def _shown(show: Callable[[float, str], None]) -> Callable[[Transfer], None]:
    return lambda transfer: show(*describe(transfer))


def _absolute(place: str) -> str:
    """Make the path in a place of the command line absolute, from the working directory."""
    form, colon, path = place.partition(":")
    if colon and form in {*Form} and path and not path.startswith("/"):
        return f"{form}:{Path.cwd()}/{path}"
    return f"{Path.cwd()}/{place[2:]}" if place.startswith("./") else place


def _finish(images: ImageService, name: str, *, as_json: bool) -> None:
    """Make the disk, which verifies every layer, and report the image."""
    try:
        make_disk(images, name)
    except* ImageCorrupt:  # two corrupt layers raise a group
        images.store.remove(name, lambda _: False)  # not in use: it was never usable
        raise
    image = images.store.resolve(name)
    _report(name, image.digest, image.size, as_json=as_json)


def _report(name: str, digest: str, size: int | None, *, as_json: bool) -> None:
    if as_json:
        found: dict[str, object] = {"name": name, "digest": digest}
        found |= {} if size is None else {"size": size}
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        say(f"{name} is {digest}.")
        sys.stdout.write(f"{name}\n")

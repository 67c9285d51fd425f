# SPDX-License-Identifier: Apache-2.0
"""OCI descriptors, manifests, configurations and platforms, parsed strictly.

Used by `layout` and `store` to read images, by `build` to write them, by the registry client and by
the code that runs images. Pure: bytes in, frozen values out; it knows no directory and no registry.
A malformed document raises an `ImageCorrupt` that names the wrong part. Platforms have one spelling
here, because tools spell architectures as Go does, as the kernel does, or not at all; indexes also
list entries that are no images, such as attestations.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar, cast

from waggle.domain.errors import ImageCorrupt
from waggle.infra.archive import DIGEST

_ARCHITECTURES: Final = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "x64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "i686": "386",
}
_REFERENCE_TYPE: Final = "vnd.docker.reference.type"


def architecture(name: str) -> str:
    """Return an architecture as OCI spells it; empty stays empty."""
    lower = name.strip().lower()
    return _ARCHITECTURES.get(lower, lower)


def platform(os: str, name: str) -> str:
    """Return `os/architecture` as OCI spells it; empty if both are; an empty OS means Linux."""
    return f"{os.strip().lower() or 'linux'}/{architecture(name)}" if os or name else ""


def is_for(platform: str, os: str, name: str) -> bool:
    """Return whether a configuration fits the platform; parts that it omits fit."""
    wanted_os, _, wanted = platform.partition("/")
    return os.lower() in {"", wanted_os} and architecture(name) in {"", wanted}


def candidates(entries: Iterable[Descriptor], platform: str) -> list[Descriptor]:
    """Return the entries that may be the image for the platform, the likeliest first.

    Of several variants of the architecture, the one that requires least of a processor comes first.
    Entries without a platform come last.
    """
    images = [entry for entry in entries if not _is_beside(entry)]
    exact = [entry for entry in images if entry.platform == platform]
    return [
        *sorted(exact, key=lambda entry: entry.variant),
        *(entry for entry in images if not entry.platform),
    ]


def _is_beside(entry: Descriptor) -> bool:
    """Return whether an entry only accompanies an image, as an attestation or signature does."""
    return bool(entry.artifact_type) or _REFERENCE_TYPE in entry.annotations


MEDIA_INDEX = "application/vnd.oci.image.index.v1+json"
MEDIA_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MEDIA_CONFIG = "application/vnd.oci.image.config.v1+json"
MEDIA_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFEST_TYPES = frozenset({MEDIA_MANIFEST, DOCKER_MANIFEST})
INDEX_TYPES = frozenset({MEDIA_INDEX, DOCKER_INDEX})
CONFIG_TYPES = frozenset({MEDIA_CONFIG, "application/vnd.docker.container.image.v1+json"})
REF_NAME = "org.opencontainers.image.ref.name"

MAX_DOCUMENT = 4 << 20
MAX_LAYERS = 512
_PLATFORM = ("os", "architecture", "variant")

Json = Mapping[str, object]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A typed, sized pointer to a blob. `digest` has the form of `infra.archive.DIGEST`."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])
    platform: str = ""
    """`os/architecture` if an index states it, else empty; spelt as by `platform`."""
    variant: str = ""
    """Of the architecture, such as `v8`."""
    artifact_type: str = ""
    """Set for artifacts that are no images, such as signatures."""

    @property
    def hex(self) -> str:
        """The digest without its algorithm: the name of the blob's file."""
        return self.digest.partition(":")[2]

    @property
    def algorithm(self) -> str:
        """The algorithm of the digest."""
        return self.digest.partition(":")[0]


def distinct(blobs: Iterable[Descriptor]) -> list[Descriptor]:
    """Return the blobs without duplicates: a manifest may name one twice."""
    return list({blob.digest: blob for blob in blobs}.values())


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The part of the image configuration that decides how its programs run."""

    architecture: str
    os: str
    diff_ids: tuple[str, ...]
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    created: str = ""


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    """An image found in a layout: manifest and config are verified, layers not yet read."""

    reference: str
    digest: str
    """Digest of the platform's manifest: identifies the content and keys the root disk."""
    config: ImageConfig
    layers: tuple[Descriptor, ...]
    layout: Path
    """The OCI layout directory that holds the layers' blobs."""
    remedy: str = ""
    """How the user repairs a corrupt image; the hint of `ImageCorrupt`."""

    @property
    def size(self) -> int:
        """Bytes of all layers as stored."""
        return sum(layer.size for layer in self.layers)


def load_json(data: bytes, what: str) -> Json:
    """Parse a JSON object. Raises ImageCorrupt that names `what`."""
    try:
        value: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageCorrupt(f"{what} is not JSON.") from error
    if not isinstance(value, dict):
        raise ImageCorrupt(f"{what} is not a JSON object.")
    return cast("Json", value)


def parse_descriptor(value: object, what: str) -> Descriptor:
    """Read one descriptor. Raises ImageCorrupt, also for digests of other algorithms."""
    if not isinstance(value, dict):
        raise ImageCorrupt(f"{what} is not a descriptor.")
    fields = cast("Json", value)
    digest, size, media = fields.get("digest"), fields.get("size"), fields.get("mediaType")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise ImageCorrupt(f"{what} has no sha256 or sha512 digest.")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ImageCorrupt(f"{what} has no size.")
    if not isinstance(media, str):
        raise ImageCorrupt(f"{what} has no media type.")
    known = _object(fields.get("platform"), f"{what}: platform")
    said = {key: _text(known.get(key), f"{what}: platform") for key in _PLATFORM}
    return Descriptor(
        media_type=media,
        digest=digest,
        size=size,
        annotations=_text_map(fields.get("annotations"), f"{what}: annotations"),
        platform=platform(said["os"], said["architecture"]),
        variant=said["variant"],
        artifact_type=_text(fields.get("artifactType"), f"{what}: artifactType"),
    )


def parse_descriptors(document: Json, key: str, what: str) -> tuple[Descriptor, ...]:
    """Read the list of descriptors at `key`; null is an empty one, as Go writes it."""
    value = document.get(key, "")
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ImageCorrupt(f"{what} has no list '{key}'.")
    items = cast("list[object]", value)
    return tuple(parse_descriptor(item, f"{what}: {key}[{n}]") for n, item in enumerate(items))


def parse_manifest(data: bytes) -> tuple[Descriptor, tuple[Descriptor, ...]]:
    """Return the descriptors of the configuration and of the layers, lowest first."""
    document = load_json(data, "The image manifest")
    config = parse_descriptor(document.get("config"), "The image manifest: config")
    layers = parse_descriptors(document, "layers", "The image manifest")
    if len(layers) > MAX_LAYERS:
        raise ImageCorrupt(f"The image has {len(layers)} layers; the limit is {MAX_LAYERS}.")
    return config, layers


def parse_config(data: bytes) -> ImageConfig:
    """Read an image configuration (OCI or Docker)."""
    what = "The image configuration"
    document = load_json(data, what)
    run = _object(document.get("config"), f"{what}: config")
    rootfs = _object(document.get("rootfs"), f"{what}: rootfs")
    diff_ids = _texts(rootfs.get("diff_ids"), f"{what}: diff_ids")
    if not all(DIGEST.fullmatch(digest) for digest in diff_ids):
        raise ImageCorrupt(f"{what}: diff_ids must be digests.")
    return ImageConfig(
        architecture=architecture(_text(document.get("architecture"), f"{what}: architecture")),
        os=_text(document.get("os"), f"{what}: os"),
        diff_ids=diff_ids,
        env=_texts(run.get("Env"), f"{what}: Env"),
        working_dir=_text(run.get("WorkingDir"), f"{what}: WorkingDir"),
        user=_text(run.get("User"), f"{what}: User"),
        entrypoint=_words(run.get("Entrypoint"), f"{what}: Entrypoint"),
        cmd=_words(run.get("Cmd"), f"{what}: Cmd"),
        labels=_text_map(run.get("Labels"), f"{what}: Labels"),
        created=_text(document.get("created"), f"{what}: created"),
    )


def paired(layers: Sequence[_T], diff_ids: Sequence[str]) -> list[tuple[_T, str]]:
    """Pair layers with the digests of their tars. Raises ImageCorrupt if the numbers differ."""
    if len(layers) != len(diff_ids):
        raise ImageCorrupt(f"{len(layers)} layers, but {len(diff_ids)} diff ids.")
    return list(zip(layers, diff_ids, strict=True))


def _object(value: object, what: str) -> Json:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ImageCorrupt(f"{what} is not an object.")
    return cast("Json", value)


def _text(value: object, what: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value or not is_unicode(value):
        raise ImageCorrupt(f"{what} is not a text.")
    return value


def is_unicode(text: str) -> bool:
    """Return False for lone surrogates, which JSON can spell but no file or argument can hold."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _texts(value: object, what: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ImageCorrupt(f"{what} is not a list.")
    return tuple(_text(item, what) for item in cast("list[object]", value))


def _words(value: object, what: str) -> tuple[str, ...]:
    """Read a command, which old tools also wrote as one text."""
    return (_text(value, what),) if isinstance(value, str) else _texts(value, what)


def _text_map(value: object, what: str) -> Mapping[str, str]:
    return {key: _text(item, what) for key, item in _object(value, what).items()}

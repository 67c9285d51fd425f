# SPDX-License-Identifier: Apache-2.0
"""Platforms, spelt in one way, and which entry of an image index is for one of them. Pure.

Tools spell architectures as Go does, as the kernel does, or not at all; an index also lists what is
no image, such as attestations. Called by `image`, `select` and the registry client.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from waggle.infra.oci.store.image import Descriptor

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
    """An architecture as OCI spells it; empty stays empty."""
    lower = name.strip().lower()
    return _ARCHITECTURES.get(lower, lower)


def platform(os: str, name: str) -> str:
    """`os/architecture` as OCI spells it, empty when neither is said; an OS unsaid is Linux."""
    return f"{os.strip().lower() or 'linux'}/{architecture(name)}" if os or name else ""


def is_for(platform: str, os: str, name: str) -> bool:
    """Whether a configuration is for the platform; what it does not say, it may be."""
    wanted_os, _, wanted = platform.partition("/")
    return os.lower() in {"", wanted_os} and architecture(name) in {"", wanted}


def candidates(entries: Iterable[Descriptor], platform: str) -> list[Descriptor]:
    """What of an index may be the image for the platform, the likeliest first.

    Of several variants of the architecture that comes first which asks the least of a processor.
    Entries that do not say what they are for come last.
    """
    images = [entry for entry in entries if not _is_beside(entry)]
    exact = [entry for entry in images if entry.platform == platform]
    return [
        *sorted(exact, key=lambda entry: entry.variant),
        *(entry for entry in images if not entry.platform),
    ]


def _is_beside(entry: Descriptor) -> bool:
    """Whether an entry belongs to an image without being one: an attestation, a signature."""
    return bool(entry.artifact_type) or _REFERENCE_TYPE in entry.annotations

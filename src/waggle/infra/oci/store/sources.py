# SPDX-License-Identifier: Apache-2.0
"""Images in files, as skopeo spells them: what a word on the command line or in a setting means.

`oci:/path[:tag]`, `oci-archive:/path[:tag]`, `docker-archive:/path[:name]`, `dir:/path`, and
`/path[:tag]` for a layout or an archive. Pure: no file is looked at. Called by `store`, `load`,
`export` and the services.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from waggle.domain.errors import InvalidArgument


class Form(StrEnum):
    """How an image is kept in files; the value is the prefix that skopeo uses."""

    LAYOUT = "oci"
    OCI_ARCHIVE = "oci-archive"
    DOCKER_ARCHIVE = "docker-archive"
    DIRECTORY = "dir"


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A place in the host's file system; `name` picks one of several images and may be empty."""

    form: Form
    path: Path
    name: str

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"{self.form}:{self.path}" + (f":{self.name}" if self.name else "")


def parse_source(text: str) -> LocalSource | None:
    """Read a local source; None when the text is none, such as a registry reference.

    The path ends at the first colon, as for skopeo. Raises InvalidArgument when the path is not
    absolute or the text cannot be a path at all.
    """
    prefix, colon, rest = text.partition(":")
    form = Form(prefix) if colon and prefix in {*Form} else None
    if form is None:
        if not text.startswith(("/", "./")):
            return None
        form, rest = Form.LAYOUT, text
    path, _, name = rest.partition(":")
    if not rest.isprintable() or not path.startswith("/"):
        raise InvalidArgument(
            f"{text[:80]!a} does not name a file by its absolute path.",
            hint="Write [oci:|oci-archive:|docker-archive:|dir:]/path[:name].",
        )
    return LocalSource(form, Path(path), name)


def is_local(text: str) -> bool:
    """Tell whether a text names files of this host, well or badly: clients may not do that."""
    return text.startswith(("/", "./", "../", "~")) or text.partition(":")[0] in {*Form}

# SPDX-License-Identifier: Apache-2.0
"""What an image's configuration asks of a machine. Called by `images`; pure.

Only what can be decided without the image's files: who a user name is, whether a directory or a
shell is there, the guest finds out.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from waggle.domain.errors import ImageCorrupt
from waggle.domain.files.filesystem import MAX_PATH_BYTES

SHELLS = frozenset({"sh", "bash", "ash", "dash", "zsh", "fish"})
MAX_USER = 255
_SHELL_OPTIONS = frozenset({"-i", "-l", "-il", "-li", "--login"})


def image_variables(entries: Sequence[str]) -> dict[str, str]:
    """Env; entries without a name are dropped, as runtimes do."""
    pairs = (entry.partition("=") for entry in entries)
    return {name: value for name, _, value in pairs if name and "\0" not in name + value}


def image_user(text: str) -> str:
    """User, as the guest's kit is to look it up; what no name can hold becomes '?'.

    An unknown user is the guest's to report, so this never fails.
    """
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text[:MAX_USER])


def image_directory(text: str) -> str:
    """WorkingDir as an absolute path without '..', as runtimes read it; empty when there is none.

    Raises ImageCorrupt when it can be no directory's path.
    """
    if not text:
        return ""
    path = "/" + posixpath.normpath("/" + text).lstrip("/")
    if not path.isprintable() or len(path.encode()) > MAX_PATH_BYTES:
        raise ImageCorrupt(
            "The image's WorkingDir is too long, or holds control characters.",
            hint="Build it with another WORKDIR.",
        )
    return path


def image_shell(entrypoint: Sequence[str], cmd: Sequence[str]) -> str:
    """The interactive shell that the image starts, or that Cmd alone is; empty when it is none."""
    for words in ((*entrypoint, *cmd), tuple(cmd)):
        if words and _is_shell(words[0]) and _SHELL_OPTIONS.issuperset(words[1:]):
            return words[0]
    return ""


def _is_shell(program: str) -> bool:
    parent, name = posixpath.split(program)
    is_plain = program == name or (parent.startswith("/") and program.isprintable())
    return is_plain and name in SHELLS and len(program.encode()) <= MAX_PATH_BYTES

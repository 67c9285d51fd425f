# SPDX-License-Identifier: Apache-2.0
"""Tar archives entry by entry: each is a name, changes of its TarInfo, and content."""

from __future__ import annotations

import io
import tarfile
from typing import Any

Member = tuple[str, dict[str, Any], bytes]


def tar(*members: Member, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, errors="surrogateescape") as archive:
        for name, changes, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in changes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Member:
    return name, {"type": kind, "linkname": target}, b""

# SPDX-License-Identifier: Apache-2.0
"""Packs a tree as a gzip layer and publishes the layer as a named image in a layout.

Called by `build`. The same tree always gives the same bytes: names are sorted, owners numeric,
times whole seconds and never after the epoch. `publish` writes configuration, manifest and index. A
label records an image's inputs, so that images based on it can check them.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path as FilePath
from typing import BinaryIO, Protocol

from waggle.infra.archive import Path
from waggle.infra.oci.build.definition import ImageDefinition
from waggle.infra.oci.layers.merge import Node, walk
from waggle.infra.oci.store.image import MEDIA_CONFIG, MEDIA_LAYER, Descriptor, ResolvedImage
from waggle.infra.oci.store.layout import Layout, canonical, manifest_of
from waggle.infra.oci.store.select import host_platform

_LEVEL = 4
_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """A layer file: its digest and size as stored, and the digest of the tar inside."""

    digest: str
    size: int
    diff_id: str


def drop(root: Node, patterns: Iterable[str]) -> None:
    """Remove matching paths from the tree, directories with all their content.

    `*` and `?` stay within one component, `**` does not.
    """
    expression = re.compile("|".join(f"(?:{_regex(p)})" for p in patterns) or "(?!)")
    stack = [("", root)]
    while stack:
        above, node = stack.pop()
        paths = {name: f"{above}/{name.decode('utf-8', 'replace')}" for name in node.children}
        for name, path in paths.items():
            if expression.fullmatch(path):
                del node.children[name]
            else:
                stack.append((path, node.children[name]))


def _regex(pattern: str) -> str:
    parts = re.split(r"(\*\*|\*|\?)", pattern)
    meaning = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(meaning.get(part) or re.escape(part) for part in parts)


def pack(
    root: Node,
    files: Sequence[FilePath],
    target: FilePath,
    epoch: int,
    report: Callable[[float], None],
) -> PackedLayer:
    """Write the tree to the new file `target`; contents come from `files` as in `Node.content`."""
    with target.open("xb") as out:
        sink = _GzipSink(out)
        _write(root, files, sink, epoch, report)
        return sink.finish()


def write_tar(root: Node, files: Sequence[FilePath], target: FilePath, epoch: int) -> None:
    """Write the tree as `pack` does, but uncompressed."""
    with target.open("xb") as out:
        _write(root, files, out, epoch, lambda _share: None)


class _Sink(Protocol):
    def write(self, data: bytes, /) -> int: ...

    def tell(self) -> int: ...


def _write(
    root: Node,
    files: Sequence[FilePath],
    sink: _Sink,
    epoch: int,
    report: Callable[[float], None],
) -> None:
    nodes = list(walk(root))
    total = sum(node.size for _, node in nodes) or 1
    written = 0
    names: dict[Node, str] = {}
    with contextlib.ExitStack() as stack:
        sources = [stack.enter_context(file.open("rb")) for file in files]
        archive = tarfile.TarFile(
            fileobj=sink,  # pyright: ignore[reportArgumentType] (only write and tell are used)
            mode="w",
            format=tarfile.PAX_FORMAT,
        )
        for path, node in nodes:
            info = _info(path, node, epoch)
            if node in names:
                info.type, info.linkname, info.size = tarfile.LNKTYPE, names[node], 0
            elif not node.is_dir:
                names[node] = info.name
            source, offset = node.content
            if info.size:
                sources[source].seek(offset)
                archive.addfile(info, sources[source])
            else:
                archive.addfile(info)
            written += info.size
            report(written / total)
        archive.close()


def _info(path: Path, node: Node, epoch: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(_str(b"/".join(path)) or ".")
    info.type = _TYPES[stat.S_IFMT(node.mode)]
    info.mode = stat.S_IMODE(node.mode)
    info.uid, info.gid = node.uid, node.gid
    info.mtime = max(0, min(node.mtime_ns // 1_000_000_000, epoch))
    info.size = node.size if stat.S_ISREG(node.mode) else 0
    info.linkname = _str(node.link)
    info.devmajor, info.devminor = node.device
    info.pax_headers = {f"SCHILY.xattr.{_str(k)}": _str(v) for k, v in node.xattrs}
    return info


def _str(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


class _GzipSink:
    """Compresses bytes, without a name or time in the header, and hashes both sides."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._gzip = zlib.compressobj(_LEVEL, wbits=31)
        self._inner = hashlib.sha256()
        self._outer = hashlib.sha256()
        self._plain = self._packed = 0

    def tell(self) -> int:
        return self._plain

    def write(self, data: bytes, /) -> int:
        self._inner.update(data)
        self._plain += len(data)
        self._emit(self._gzip.compress(data))
        return len(data)

    def _emit(self, data: bytes) -> None:
        self._outer.update(data)
        self._packed += len(data)
        self._out.write(data)

    def finish(self) -> PackedLayer:
        self._emit(self._gzip.flush())
        digest, diff_id = self._outer.hexdigest(), self._inner.hexdigest()
        return PackedLayer(f"sha256:{digest}", self._packed, f"sha256:{diff_id}")


FINGERPRINT = "waggle.definition"
"""The label that holds the `fingerprint`."""


def fingerprint(definition: ImageDefinition, mirror: str) -> str:
    """Return 16 hex digits that identify a definition and a Debian archive."""
    return hashlib.sha256(f"{definition!r} {mirror}".encode()).hexdigest()[:16]


def publish(
    definition: ImageDefinition,
    mirror: str,
    below: ResolvedImage | None,
    layer: PackedLayer,
    blob: FilePath,
    layout: Layout,
) -> None:
    """Put the blobs into the layout, then name them; only then is there an image."""
    os_name, architecture = host_platform().split("/", 1)
    created = datetime.fromtimestamp(definition.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    settings: dict[str, object] = {
        "Env": [f"{key}={value}" for key, value in sorted(definition.env.items())],
        "Labels": {**definition.labels, FINGERPRINT: fingerprint(definition, mirror)},
    }
    if definition.cmd:
        settings["Cmd"] = list(definition.cmd)
    names = _names(definition)
    config = {
        "architecture": architecture,
        "os": os_name,
        "created": created,
        "config": settings,
        "rootfs": {
            "type": "layers",
            "diff_ids": [*(below.config.diff_ids if below else ()), layer.diff_id],
        },
        "history": [{"created": created, "created_by": f"waggle image build {n}"} for n in names],
    }
    with layout.locked():
        layout.put_file(blob, layer.digest)
        described = Descriptor(MEDIA_CONFIG, *layout.put_bytes(canonical(config)))
        own = Descriptor(f"{MEDIA_LAYER}+gzip", layer.digest, layer.size)
        manifest = manifest_of(described, [*(below.layers if below else ()), own])
        layout.tag(definition.name, *layout.put_bytes(manifest))


def _names(definition: ImageDefinition) -> list[str]:
    """Return the names of the images whose layers it contains, lowest first."""
    below = _names(definition.base) if definition.base else []
    return [*below, definition.name]

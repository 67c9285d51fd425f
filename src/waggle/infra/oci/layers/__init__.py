# SPDX-License-Identifier: Apache-2.0
"""Turns a resolved image into one merged tree, with the contents of its files beside it.

The services pass `flatten` to `rootfs.disk.RootDisks`, which writes the tree as a disk. It calls
`layers` for every blob and `merge` for the tree, and writes only to the directory that it is given.
`UnpackedLayers` is a cache of unpacked layers that images share, also filled while a pull still
fetches the next ones. Its key is a layer's diff id, the digest of its tar, verified on unpacking;
an entry under its final name is complete, and any may be removed and made again.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from waggle.domain.errors import ImageCorrupt
from waggle.infra.archive import DEFAULT_LIMITS, DIGEST, Limits
from waggle.infra.archive.tar import Entry
from waggle.infra.oci.layers.layers import Advance, LayerData, Meter, Stopped, Take, read_layer
from waggle.infra.oci.layers.merge import Node, merge
from waggle.infra.oci.store.image import Descriptor, ResolvedImage, paired
from waggle.infra.oci.store.layout import Layout
from waggle.infra.shared.files import FileLock
from waggle.infra.shared.work import place, sweep, workspace

_FORMAT = 2
"""Part of the name, so that a change of the format does not meet old files."""
_LOCK_SECONDS = 1800.0
_IN_USE_SECONDS = 3600.0
"""A disk may still be in the making from a layer used this recently."""
_DATA, _ENTRIES = "data", "entries.jsonl"
Unpack = Callable[[Path, Take], int]
"""Unpacks a layer into the given file, which does not exist yet, and passes on its entries.

Returns the unpacked bytes; raises when the layer does not match its description.
"""


class UnpackedLayers:
    """The unpacked layers in one directory; safe for any number of threads and processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def find(self, diff_id: str) -> LayerData | None:
        """Return a layer if it is here, and note its use. A damaged one counts as missing."""
        path = self._path(diff_id)
        try:
            os.utime(path)
            with (path / _ENTRIES).open(encoding="ascii") as lines:
                *rows, size = map(json.loads, lines)
            return LayerData(tuple(map(_entry, rows)), path / _DATA, int(size))
        except (OSError, ValueError, TypeError):
            return None

    def ensure(self, diff_id: str, unpack: Unpack) -> LayerData:
        """Return a layer; unpack it if it is not here. Blocks the thread.

        Concurrent calls, also in other processes, unpack it once; the others wait (at most 30
        minutes, then TimedOut). Raises what `unpack` raises; nothing partial stays.
        """
        if found := self.find(diff_id):
            return found
        with self._lock(diff_id):
            if found := self.find(diff_id):
                return found
            sweep(self.directory)
            with workspace(self.directory) as work:
                self._place(diff_id, _make(work, unpack))
            if found := self.find(diff_id):
                return found
            raise ImageCorrupt(f"The layer {diff_id} was unpacked and cannot be read.")

    def add(self, diff_id: str, unpack: Unpack) -> None:
        """Add a layer as `ensure` does, but hold no lock while `unpack` waits for a transfer.

        Keeps no entries in memory. Two concurrent calls may both unpack; the first result counts.
        """
        if self._is_here(diff_id):
            return
        sweep(self.directory)
        with workspace(self.directory) as work:
            made = _make(work, unpack)
            with self._lock(diff_id):
                if not self._is_here(diff_id):
                    self._place(diff_id, made)

    def _is_here(self, diff_id: str) -> bool:
        """Return whether a layer has its final name, which only complete ones get; note its use."""
        try:
            os.utime(self._path(diff_id))
        except OSError:
            return False
        return True

    def _lock(self, diff_id: str) -> FileLock:
        path = self._path(diff_id)
        self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        return FileLock(self.directory / f".{path.name}.lock", timeout=_LOCK_SECONDS)

    def _place(self, diff_id: str, made: Path) -> None:
        """Give a complete, synced layer its name. The caller holds the layer's lock."""
        target = self._path(diff_id)
        shutil.rmtree(target, ignore_errors=True)  # it is damaged: else it would have been found
        place(made, target)

    def prune(self, max_bytes: int, now: Callable[[], float] = time.time) -> int:
        """Remove the least recently used until the rest takes `max_bytes`; return bytes freed.

        Layers used within the last hour stay, and so do those that another process is making.
        """
        kept = [
            (path.stat().st_mtime, path, sum(file.stat().st_size for file in path.iterdir()))
            for path in self.directory.glob("[!.]*.v*")
        ]
        total, freed = sum(size for _, _, size in kept), 0
        for used, path, size in sorted(kept):
            if total - freed <= max_bytes or used > now() - _IN_USE_SECONDS:
                break
            shutil.rmtree(path, ignore_errors=True)
            freed += size
        return freed

    def _path(self, diff_id: str) -> Path:
        if not DIGEST.fullmatch(diff_id):
            raise ValueError(f"{diff_id!r} is not a digest")
        return self.directory / f"{diff_id.partition(':')[2]}.v{_FORMAT}"


def _make(work: Path, unpack: Unpack) -> Path:
    """Unpack into a directory of the workspace, complete and synced when this returns.

    Each line of its list is an entry; the last line is the number of unpacked bytes.
    """
    whole = work / "layer"
    whole.mkdir()
    with (whole / _ENTRIES).open("x", encoding="ascii") as lines:
        size = unpack(whole / _DATA, lambda entry: print(json.dumps(_row(entry)), file=lines))
        print(size, file=lines)
    return whole


def _row(entry: Entry) -> list[object]:
    """Return an entry as JSON values; bytes become text with the same code points."""
    return [
        [_text(part) for part in entry.path],
        *(entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.size, _text(entry.link)),
        entry.device,
        [[_text(name), _text(value)] for name, value in entry.xattrs],
        entry.offset,
    ]


def _entry(row: list[object]) -> Entry:
    path, mode, uid, gid, mtime_ns, size, link, device, xattrs, offset = cast(
        "tuple[list[str], int, int, int, int, int, str, list[int], list[list[str]], int]", row
    )
    return Entry(
        path=tuple(_bytes(part) for part in path),
        mode=mode,
        uid=uid,
        gid=gid,
        mtime_ns=mtime_ns,
        size=size,
        link=_bytes(link),
        device=(device[0], device[1]),
        xattrs=tuple((_bytes(name), _bytes(value)) for name, value in xattrs),
        offset=offset,
    )


def _text(data: bytes) -> str:
    return data.decode("latin-1")


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")


_WORKERS = 2


@dataclass(frozen=True, slots=True)
class FlatImage:
    """A merged tree. `files[n]` holds the contents that nodes of layer n point into."""

    root: Node
    files: tuple[Path, ...]


def flatten(
    image: ResolvedImage,
    workspace: Path,
    progress: Advance,
    limits: Limits = DEFAULT_LIMITS,
    *,
    kept: UnpackedLayers | None = None,
) -> FlatImage:
    """Unpack, verify and merge the layers of `image` inside the empty directory `workspace`.

    Layers in `kept` are not unpacked again, and the layers of an image with several are added to
    it, because other images may share them. Blocks the thread; two layers are unpacked at a time.
    `progress` is called from those threads, one call at a time; if it raises, the others stop soon
    and that error is raised here. Raises ImageCorrupt (with the image's remedy as hint) and
    OSError.
    """
    try:
        several = kept if len(image.layers) > 1 else None
        return _flatten(image, workspace, progress, limits, several)
    except ImageCorrupt as error:
        message = f"Image {image.reference}: {error.message}"
        raise ImageCorrupt(message, hint=error.hint or image.remedy) from error


def _flatten(
    image: ResolvedImage,
    workspace: Path,
    progress: Advance,
    limits: Limits,
    kept: UnpackedLayers | None,
) -> FlatImage:
    pairs = paired(image.layers, image.config.diff_ids)
    layout = Layout(image.layout)
    meter = Meter(image.size, f"unpacking {image.reference}", progress, megabytes=False)

    def read(number: int, layer: Descriptor, diff_id: str) -> LayerData:
        def unpack(data: Path, take: Take) -> int:
            with layout.open_blob(layer, image.remedy) as blob:
                return read_layer(blob, layer, diff_id, data, take, limits, advance=meter.count)

        if kept is not None:
            return kept.ensure(diff_id, unpack)
        data, entries = workspace / f"layer-{number}", list[Entry]()
        return LayerData(entries, data, unpack(data, entries.append))

    with ThreadPoolExecutor(_WORKERS, "waggle-layer") as pool:
        futures = [pool.submit(read, n, *pair) for n, pair in enumerate(pairs)]
        done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
        failed = [e for f in done if (e := f.exception()) and not isinstance(e, Stopped)]
        if failed:
            meter.stop.set()
            for future in waiting:
                future.cancel()
            raise failed[0]
    layers = [future.result() for future in futures]
    if sum(layer.unpacked_bytes for layer in layers) > limits.total_bytes:
        raise ImageCorrupt(f"It unpacks to more than {limits.total_bytes} bytes.")
    root = merge((layer.entries for layer in layers), limits)
    return FlatImage(root, tuple(layer.data for layer in layers))

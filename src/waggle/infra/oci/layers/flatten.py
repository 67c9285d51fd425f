# SPDX-License-Identifier: Apache-2.0
"""Turns a resolved image into one merged tree, with the contents of its files beside it.

The services pass `flatten` to `rootfs.disk.RootDisks`, which writes the tree as a disk. It calls
`layers` for every blob and `merge` for the tree. It writes only to the directory that it is given,
which the caller removes.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock

from waggle.domain.errors import ImageCorrupt
from waggle.infra.archive.limits import DEFAULT_LIMITS, Limits
from waggle.infra.archive.tar import Entry
from waggle.infra.oci.layers.layers import LayerData, Take, read_layer
from waggle.infra.oci.layers.merge import Node, merge
from waggle.infra.oci.layers.unpacked import UnpackedLayers
from waggle.infra.oci.store.image import Descriptor, ResolvedImage, paired
from waggle.infra.oci.store.layout import Layout

Advance = Callable[[float, str], None]
"""Gets the fraction done (0 to 1) and a description; may raise to stop the work."""

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


class _Meter:
    """Joins the bytes read by several threads into one progress; stops them all when one fails."""

    def __init__(self, image: ResolvedImage, progress: Advance) -> None:
        self._total = max(image.size, 1)
        self._text = f"unpacking {image.reference}"
        self._progress = progress
        self._done = 0
        self._lock = Lock()
        self.stop = Event()

    def advance(self, count: int) -> None:
        with self._lock:
            if self.stop.is_set():
                raise _Stopped
            self._done += count
            self._progress(min(self._done / self._total, 1.0), self._text)


class _Stopped(Exception):
    """Ends a thread after another one failed; never raised to callers."""


def _flatten(
    image: ResolvedImage,
    workspace: Path,
    progress: Advance,
    limits: Limits,
    kept: UnpackedLayers | None,
) -> FlatImage:
    pairs = paired(image.layers, image.config.diff_ids)
    layout, meter = Layout(image.layout), _Meter(image, progress)

    def read(number: int, layer: Descriptor, diff_id: str) -> LayerData:
        def unpack(data: Path, take: Take) -> int:
            with layout.open_blob(layer, image.remedy) as blob:
                return read_layer(blob, layer, diff_id, data, take, limits, advance=meter.advance)

        if kept is not None:
            return kept.ensure(diff_id, unpack)
        data, entries = workspace / f"layer-{number}", list[Entry]()
        return LayerData(entries, data, unpack(data, entries.append))

    with ThreadPoolExecutor(_WORKERS, "waggle-layer") as pool:
        futures = [pool.submit(read, n, *pair) for n, pair in enumerate(pairs)]
        done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
        failed = [e for f in done if (e := f.exception()) and not isinstance(e, _Stopped)]
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

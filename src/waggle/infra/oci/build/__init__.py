# SPDX-License-Identifier: Apache-2.0
"""`waggle image build NAME`: builds an image in the store from a definition, reproducibly.

Called by the CLI, also for `demo`, `run` and `test` when an image is missing. `bootstrap` makes the
tree and the difference to the image below, `packages` fetches wheels and npm packages that Debian
has only in old versions, `merge` and `pack` make the layer. An image with a base shares the layers
of its base and adds one. Same inputs, same digest.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from waggle.domain.errors import ImageCorrupt, ImageMissing, InvalidArgument
from waggle.infra.archive import DEFAULT_LIMITS, clean_path
from waggle.infra.archive.tar import Entry
from waggle.infra.oci.build import packages
from waggle.infra.oci.build.bootstrap import (
    adopt,
    bootstrap_argv,
    debian_mirror,
    debian_tree,
    difference,
    mmdebstrap_mode,
)
from waggle.infra.oci.build.definition import ImageDefinition
from waggle.infra.oci.build.pack import FINGERPRINT, drop, fingerprint, pack, publish, write_tar
from waggle.infra.oci.build.packages import add_file, download, download_all, unpack
from waggle.infra.oci.layers import FlatImage, flatten
from waggle.infra.oci.layers.layers import Advance, read_entries
from waggle.infra.oci.layers.merge import Node, merge
from waggle.infra.oci.store import ImageStore, check_name
from waggle.infra.oci.store.image import ResolvedImage

MACHINE_STATE = (
    "/dev/*",
    "/etc/apt/apt.conf.d/99mmdebstrap",
    "/etc/.pwd.lock",
    "/etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "/etc/hostname",
    "/etc/machine-id",
    "/etc/resolv.conf",
    "/etc/*-",
    "/run/*",
    "/tmp/*",  # noqa: S108 (a pattern inside the image)
    "/var/cache/ldconfig/*",
    "/var/cache/apt/**",
    "/var/cache/debconf/*-old",
    "/var/lib/apt/lists/*",
    "/var/lib/apt/extended_states.*",
    "/var/lib/dbus/machine-id",
    "/var/lib/dpkg/*-old",
    "/var/lib/dpkg/lock*",
    "/var/lib/systemd/random-seed",
    "/var/log/**",
)
"""Files that a machine writes for itself; left out of every image."""

_STAGES = {
    "I: running apt-get update": 0.05,
    "I: downloading packages": 0.15,
    "I: extracting archives": 0.3,
    "I: installing essential": 0.35,
    "I: installing remaining": 0.45,
    "I: running --customize-hook": 0.6,
    "I: cleaning package lists": 0.7,
    "I: creating tarball": 0.72,
}
_FRESH = 24 * 3600.0
"""A base built from the same inputs within this many seconds is not rebuilt."""


def build_image(
    definition: ImageDefinition,
    store: ImageStore,
    mirror: str = "",
    progress: Advance = lambda _fraction, _text: None,
    now: Callable[[], float] = time.time,
) -> ResolvedImage:
    """Build `definition` and name the result in `store`.

    `mirror` is the operator's Debian archive; if it is empty, see `debian.mirror`. `progress` gets
    a fraction and a line of text, also from other threads. Base images are built and named first,
    unless they were built within the last day from their present inputs. Blocks for about a minute
    per image; an interrupt ends the processes and leaves the image as it was. Building again
    replaces the name. Raises SetupIncomplete, InvalidArgument, TimedOut, OSError.
    """
    check_name(definition.name)
    argv_mirror = debian_mirror(mirror)
    below = _base(definition, store, argv_mirror, progress, now)
    with store.layout.workspace() as workspace:
        work = _Work(definition, argv_mirror, workspace, progress)
        layer, files = work.layer(below)
        blob = workspace / "layer.tar.gz"
        packed = pack(
            layer, files, blob, definition.epoch, lambda f: progress(0.8 + f * 0.19, "packing")
        )
        publish(definition, argv_mirror, below, packed, blob, store.layout)
    progress(1.0, f"image {definition.name} is built")
    return store.resolve(definition.name)


def is_outdated(definition: ImageDefinition, image: ResolvedImage, mirror: str = "") -> bool:
    """Return whether `build_image` built `image` from other inputs than it would use now.

    False for an image that it did not build: it is a user's own under this name.
    """
    made_from = image.config.labels.get(FINGERPRINT)
    return made_from not in (None, fingerprint(definition, debian_mirror(mirror)))


def _base(
    definition: ImageDefinition,
    store: ImageStore,
    mirror: str,
    report: Advance,
    now: Callable[[], float],
) -> ResolvedImage | None:
    """Return the base: the store's image if it is fresh and has the same inputs, else a new one."""
    base = definition.base
    if base is None:
        return None
    try:
        found = store.resolve(base.name)
        built = (found.layout / "blobs" / "sha256" / found.layers[-1].hex).stat().st_mtime
        same = found.config.labels.get(FINGERPRINT) == fingerprint(base, mirror)
        if same and now() - built < _FRESH:
            return found
    except (ImageMissing, ImageCorrupt, OSError):
        pass
    return build_image(base, store, mirror, lambda f, text: report(f * 0.05, text), now)


class _Work:
    """The build of one image, in its own workspace."""

    def __init__(
        self, definition: ImageDefinition, mirror: str, workspace: Path, report: Advance
    ) -> None:
        self._definition = definition
        self._mirror = mirror
        self._workspace = workspace
        self._report = report

    def layer(self, below: ResolvedImage | None) -> tuple[Node, Sequence[Path]]:
        """Make the tree of the layer to add, and the files of its contents."""
        made = self._definition
        lower = self._lower(below) if below else None
        runs = lower is None or made.packages or made.warm_up or made.requirements
        trees: list[Sequence[Entry]] = []
        files: list[Path] = []
        for part in (self._bootstrap(lower) if runs else None, self._extras()):
            if part is not None:
                trees.append(part[0])
                files.append(part[1])
        root = merge(trees, DEFAULT_LIMITS)
        drop(root, (*MACHINE_STATE, *made.drop))
        if lower is not None and not runs:
            adopt(lower.root, root)
        self._set_modes(root)
        if lower is None:
            return root, files
        return difference(lower.root, lower.files, root, files, removals=bool(runs)), files

    def _lower(self, below: ResolvedImage) -> FlatImage:
        place = self._workspace / "lower"
        place.mkdir()
        return flatten(below, place, lambda f, text: self._report(0.05 + f * 0.05, text))

    def _bootstrap(self, lower: FlatImage | None) -> tuple[list[Entry], Path]:
        """Make the Debian tree; return its entries and the file of their contents."""
        made = self._definition
        mode = mmdebstrap_mode(os.geteuid())
        temporary = self._workspace / "tree"
        temporary.mkdir(mode=0o755)
        start = wheels = None
        if lower is not None:
            start = self._workspace / "lower.tar"
            write_tar(lower.root, lower.files, start, made.epoch)
        if made.requirements:
            self._report(0.1, "fetching wheels")
            wheels = self._workspace / "requirements"
            download_all(made.requirements, wheels)
        place = temporary if mode == "root" else None
        argv = bootstrap_argv(made, self._mirror, mode, place, start, wheels)
        at = 0.1

        def line(text: str) -> None:
            nonlocal at
            at = max((f for prefix, f in _STAGES.items() if text.startswith(prefix)), default=at)
            self._report(at, text)

        data = self._workspace / "tree.data"
        entries: list[Entry] = []
        with debian_tree(argv, line) as stream, data.open("xb") as out:
            read_entries(stream, out.fileno(), entries.append, DEFAULT_LIMITS)
        return entries, data

    def _extras(self) -> tuple[list[Entry], Path]:
        """Make the upper part: contents of packages, and the definition's files and links."""
        made = self._definition
        data = self._workspace / "extra"
        downloads = self._workspace / "wheels"
        downloads.mkdir()
        entries: list[Entry] = []
        if made.wheels:
            self._report(0.75, "fetching wheels")
        with data.open("xb") as out:
            found = download(made.wheels, downloads)
            for wheel, file in zip(made.wheels, found, strict=True):
                entries.extend(unpack(wheel, file, out, made.epoch))
            if made.npm:
                packed = packages.fetch(made.npm, found[0], self._workspace / "npm")
                for package, file in zip(made.npm, packed, strict=True):
                    entries.extend(packages.unpack_package(package, file, out, made.epoch))
            for name, content in sorted(made.files.items()):
                mode = 0o755 if content.startswith("#!") else 0o644
                entries.append(add_file(out, name, content.encode(), mode, made.epoch))
        entries.extend(_plain(n, stat.S_IFDIR | 0o755, made.epoch) for n in made.directories)
        entries.extend(
            _plain(n, stat.S_IFLNK | 0o777, made.epoch, target.encode())
            for n, target in made.links.items()
        )
        return entries, data

    def _set_modes(self, root: Node) -> None:
        for name, mode in self._definition.modes.items():
            node = root
            for part in clean_path(name.encode(), DEFAULT_LIMITS):
                if part not in node.children:
                    raise InvalidArgument(f"There is no {name} whose mode could be set.")
                node = node.children[part]
            node.mode = stat.S_IFMT(node.mode) | int(mode, 8)


def _plain(name: str, mode: int, epoch: int, link: bytes = b"") -> Entry:
    """Return a directory or a link, owned by root."""
    return Entry(
        path=clean_path(name.encode(), DEFAULT_LIMITS),
        mode=mode,
        uid=0,
        gid=0,
        mtime_ns=epoch * 1_000_000_000,
        link=link,
    )

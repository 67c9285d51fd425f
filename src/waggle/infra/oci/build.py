# SPDX-License-Identifier: Apache-2.0
"""`waggle image build NAME`: a definition -> an image in the store. Same inputs, same digest.

Called by the CLI, also for `demo`, `run` and `test` when an image is missing. Uses `bootstrap` for
the tree, `wheels` for what Debian has only in old versions, `plan` and `pack` for the one layer.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from waggle.infra.oci.bootstrap import (
    bootstrap_argv,
    debian_mirror,
    debian_tree,
    mmdebstrap_mode,
)
from waggle.infra.oci.definition import ImageDefinition
from waggle.infra.oci.image import (
    MEDIA_CONFIG,
    MEDIA_LAYER,
    MEDIA_MANIFEST,
    ResolvedImage,
)
from waggle.infra.oci.layers import read_entries
from waggle.infra.oci.layout import Layout, canonical
from waggle.infra.oci.limits import DEFAULT_LIMITS
from waggle.infra.oci.pack import PackedLayer, drop, pack
from waggle.infra.oci.paths import clean_path
from waggle.infra.oci.plan import Node, merge
from waggle.infra.oci.select import host_platform
from waggle.infra.oci.store import ImageStore, check_name
from waggle.infra.oci.tar import Entry
from waggle.infra.oci.wheels import add_file, download, unpack

Advance = Callable[[float, str], None]

MACHINE_STATE = (
    "/dev/*",
    "/etc/apt/apt.conf.d/99mmdebstrap",
    "/etc/.pwd.lock",
    "/etc/hostname",
    "/etc/machine-id",
    "/etc/resolv.conf",
    "/etc/*-",
    "/run/*",
    "/tmp/*",  # noqa: S108 (a pattern inside the image)
    "/var/cache/ldconfig/*",
    "/var/cache/apt/**",
    "/var/lib/apt/lists/*",
    "/var/lib/apt/extended_states.*",
    "/var/lib/dbus/machine-id",
    "/var/lib/dpkg/*-old",
    "/var/lib/dpkg/lock*",
    "/var/lib/systemd/random-seed",
    "/var/log/**",
)
"""What a machine writes for itself; left out of every image."""

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


def build_image(
    definition: ImageDefinition,
    store: ImageStore,
    mirror: str = "",
    progress: Advance | None = None,
) -> ResolvedImage:
    """Build `definition` and give the result its name in `store`.

    `mirror` is the operator's Debian archive; for none see `debian.mirror`. `progress` gets a
    fraction and a line of text, also from other threads. Blocks for about half a minute;
    interrupting it ends its processes and leaves the store as it was. Building again replaces the
    name. Raises SetupIncomplete, InvalidArgument, TimedOut, OSError.
    """
    check_name(definition.name)
    report = progress or _silent
    mode = mmdebstrap_mode(os.geteuid())
    argv_mirror = debian_mirror(mirror)
    with store.layout.workspace() as workspace:
        entries, base = _bootstrap(definition, argv_mirror, mode, workspace, report)
        more, extra = _extras(definition, workspace, report)
        root = merge([entries, more], DEFAULT_LIMITS)
        drop(root, (*MACHINE_STATE, *definition.drop))
        blob = workspace / "layer.tar.gz"
        layer = _pack(root, [base, extra], blob, definition, report)
        _publish(definition, layer, blob, store.layout)
    report(1.0, f"image {definition.name} is built")
    return store.resolve(definition.name)


def _silent(fraction: float, text: str) -> None:
    """Report to nobody."""


def _bootstrap(
    definition: ImageDefinition, mirror: str, mode: str, workspace: Path, report: Advance
) -> tuple[tuple[Entry, ...], Path]:
    """Make the Debian tree; return its entries and the file of their contents."""
    temporary = workspace / "tree"
    temporary.mkdir(mode=0o755)
    argv = bootstrap_argv(definition, mirror, mode, temporary if mode == "root" else None)
    at = 0.0

    def line(text: str) -> None:
        nonlocal at
        at = max((f for prefix, f in _STAGES.items() if text.startswith(prefix)), default=at)
        report(at, text)

    data = workspace / "base"
    with debian_tree(argv, line) as stream, data.open("xb") as out:
        entries = read_entries(stream, out.fileno(), DEFAULT_LIMITS)
    return entries, data


def _extras(
    definition: ImageDefinition, workspace: Path, report: Advance
) -> tuple[list[Entry], Path]:
    """Make the upper part: what comes from wheels, and the definition's files and links."""
    data = workspace / "extra"
    downloads = workspace / "wheels"
    downloads.mkdir()
    entries: list[Entry] = []
    if definition.wheels:
        report(0.75, "fetching wheels")
    with data.open("xb") as out:
        for wheel, file in zip(
            definition.wheels, download(definition.wheels, downloads), strict=True
        ):
            entries.extend(unpack(wheel, file, out, definition.epoch))
        for name, content in sorted(definition.files.items()):
            mode = 0o755 if content.startswith("#!") else 0o644
            entries.append(add_file(out, name, content.encode(), mode, definition.epoch))
    entries.extend(_link(n, target, definition.epoch) for n, target in definition.links.items())
    return entries, data


def _link(name: str, target: str, epoch: int) -> Entry:
    return Entry(
        path=clean_path(name.encode(), DEFAULT_LIMITS),
        mode=stat.S_IFLNK | 0o777,
        uid=0,
        gid=0,
        mtime_ns=epoch * 1_000_000_000,
        link=target.encode(),
    )


def _pack(
    root: Node, files: Sequence[Path], blob: Path, definition: ImageDefinition, report: Advance
) -> PackedLayer:
    return pack(
        root, files, blob, definition.epoch, lambda f: report(0.8 + f * 0.19, "packing the layer")
    )


def _publish(definition: ImageDefinition, layer: PackedLayer, blob: Path, layout: Layout) -> None:
    """Put the blobs into the layout, then name them; until then nothing of it is an image."""
    os_name, architecture = host_platform().split("/", 1)
    created = datetime.fromtimestamp(definition.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    settings: dict[str, object] = {
        "Env": [f"{key}={value}" for key, value in sorted(definition.env.items())],
        "Labels": dict(definition.labels),
    }
    if definition.cmd:
        settings["Cmd"] = list(definition.cmd)
    config = {
        "architecture": architecture,
        "os": os_name,
        "created": created,
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [{"created": created, "created_by": f"waggle image build {definition.name}"}],
    }
    with layout.locked():
        layout.put_file(blob, layer.digest)
        config_digest, config_size = layout.put_bytes(canonical(config))
        manifest = {
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "config": {"mediaType": MEDIA_CONFIG, "digest": config_digest, "size": config_size},
            "layers": [
                {"mediaType": f"{MEDIA_LAYER}+gzip", "digest": layer.digest, "size": layer.size}
            ],
        }
        digest, size = layout.put_bytes(canonical(manifest))
        layout.tag(definition.name, digest, size)

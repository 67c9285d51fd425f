# SPDX-License-Identifier: Apache-2.0
"""A small image, and the checks of a store that the tests of loading share."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.infra.oci.archives import (
    blobs,
    config_of,
    ignore,
    leftovers,
    listing,
    manifest,
    sha,
)
from tests.support.images import (
    Member,
    compressed,
    directory,
    file,
    hard_link,
    symlink,
    tar_bytes,
)

from waggle.domain.errors import ImageCorrupt, ImageMissing, InvalidArgument, WaggleError
from waggle.infra.archive import Limits
from waggle.infra.oci.layers import flatten
from waggle.infra.oci.store import ImageStore
from waggle.infra.oci.transfer import load

LAYERS = [[directory("etc"), file("etc/hello", b"hello" * 1000)], [file("own", b"x")]]


TARS = [tar_bytes(layer) for layer in LAYERS]


NAME = "registry.example/team/mine:v1"


def boots(store: ImageStore, name: str, workspace: Path) -> list[bytes]:
    """Unpack an image of the store as a create does; return the names at its root."""
    workspace.mkdir()
    return sorted(flatten(store.resolve(name), workspace, ignore).root.children)


def refused(store: ImageStore, source: str, name: str | None = "x") -> WaggleError:
    """Check that a source is refused clearly and leaves nothing; return the error."""
    before = blobs(store)
    with pytest.raises((ImageCorrupt, ImageMissing, InvalidArgument)) as caught:
        load(source, store, name, ignore, limits=Limits(total_bytes=1 << 26, ratio_from=1 << 22))
    assert (blobs(store), leftovers(store)) == (before, [])
    assert str(caught.value).isprintable(), "nothing of an archive reaches a terminal as it is"
    return caught.value


def docker_members(shape: str) -> list[Member]:
    """Return one image in a shape that Docker has written over the years."""
    config = config_of(TARS)
    name = f"{sha(config)}.json"
    names = [f"{n * 64}/layer.tar" for n in "ab"]
    if shape == "combined":
        name, names = f"blobs/sha256/{sha(config)}", [f"blobs/sha256/{sha(tar)}" for tar in TARS]
    layers = [file(at, tar) for at, tar in zip(names, TARS, strict=True)]
    if shape == "symlinks":
        layers = [file("one.tar", TARS[0]), file("two.tar", TARS[1])]
        layers += [symlink(names[0], "../one.tar"), symlink(names[1], "../two.tar")]
    if shape == "hard links":
        layers = [file("one.tar", TARS[0]), hard_link(names[0], "one.tar"), layers[1]]
    if shape == "gzip":
        layers = [file(at, compressed(t, "gzip")) for at, t in zip(names, TARS, strict=True)]
    extra = [file(f"{'a' * 64}/VERSION", b"1.0"), file("repositories", b"{}")]
    if shape == "combined":
        extra = [file("oci-layout", b"{}"), file("index.json", b"{}")]
    return [*extra, *layers, file(name, config), manifest(listing(name, names, [NAME]))]

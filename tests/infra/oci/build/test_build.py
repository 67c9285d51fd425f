# SPDX-License-Identifier: Apache-2.0
"""Real builds with mmdebstrap and pip: same inputs, same digest, no trace of the builder."""

from __future__ import annotations

import asyncio
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from waggle.domain.errors import SetupIncomplete
from waggle.infra.oci.build import build_image, is_outdated
from waggle.infra.oci.build.definition import Archive, ImageDefinition, parse_definition
from waggle.infra.oci.build.pack import FINGERPRINT, fingerprint
from waggle.infra.oci.build.packages import download
from waggle.infra.oci.layers import flatten
from waggle.infra.oci.layers.merge import Node
from waggle.infra.oci.store import ImageStore
from waggle.infra.oci.store.image import ImageConfig, ResolvedImage
from waggle.infra.rootfs.disk import RootDisks

TINY = """
suite = "trixie"
variant = "extract"
epoch = 1767225600
packages = ["busybox-static"]
cmd = ["/bin/busybox", "sh"]
drop = ["/usr/share/**", "/etc/**"]

[env]
PATH = "/usr/bin"

[files]
"/opt/hello" = "#!/bin/sh\\n"

[links]
"/opt/sh" = "../usr/bin/busybox"
"""


def names(image: ResolvedImage, workspace: Path) -> dict[str, Node]:
    workspace.mkdir()
    flat = flatten(image, workspace, lambda _fraction, _text: None)
    return {name.decode(): node for name, node in flat.root.children.items()}


@pytest.mark.net
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_same_definition_gives_the_same_digest(tmp_path: Path) -> None:
    definition = parse_definition("tiny", TINY)
    seen: list[tuple[float, str]] = []
    stores = [ImageStore(tmp_path / "one"), ImageStore(tmp_path / "two")]
    one = build_image(definition, stores[0], progress=lambda f, text: seen.append((f, text)))
    two = build_image(definition, stores[1])
    assert one.digest == two.digest
    assert one.config.env == ("PATH=/usr/bin",)
    assert one.config.cmd == ("/bin/busybox", "sh")
    assert seen[-1] == (1.0, "image tiny is built")
    assert any("apt-get update" in text for _, text in seen)
    tree = names(one, tmp_path / "flat")
    assert tree["opt"].children[b"hello"].mode & 0o777 == 0o755
    assert tree["opt"].children[b"sh"].link == b"../usr/bin/busybox"
    assert b"busybox" in tree["usr"].children[b"bin"].children
    left = {path.name for path in (tmp_path / "one").iterdir()}
    assert left == {"blobs", "index.json", "oci-layout", ".lock"}
    disk = asyncio.run(RootDisks(tmp_path / "disks", flatten).ensure(one))
    subprocess.run(["fsck.erofs", disk], check=True, capture_output=True)


def test_an_image_is_outdated_when_its_inputs_have_changed() -> None:
    def built(**labels: str) -> ResolvedImage:
        config = ImageConfig("amd64", "linux", (), labels=labels)
        return ResolvedImage("tiny", "sha256:0", config, (), Path())

    definition = parse_definition("tiny", TINY)
    mirror = "http://mirror.test/debian"
    current = built(**{FINGERPRINT: fingerprint(definition, mirror)})
    assert not is_outdated(definition, current, mirror)
    assert is_outdated(replace(definition, epoch=1), current, mirror)
    assert is_outdated(definition, current, "http://other.test/debian")
    assert not is_outdated(definition, built(), mirror), "somebody's own under this name"
    upper = parse_definition("upper", UPPER, base=lambda _name: definition)
    on_older = built(**{FINGERPRINT: fingerprint(upper, mirror)})
    changed = replace(upper, base=replace(definition, packages=("bash",)))
    assert is_outdated(changed, on_older, mirror), "what it stands on counts"


UPPER = """
base = "tiny"
epoch = 1767225600
drop = ["/opt/gone"]

[files]
"/opt/hello" = "#!/bin/sh\\necho changed\\n"
"/opt/gone" = "x"
"/srv/new" = "y"

[modes]
"/srv/new" = "0440"
"""


@pytest.mark.net
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_image_with_a_base_has_one_more_layer(tmp_path: Path) -> None:
    tiny = parse_definition("tiny", TINY)
    upper = parse_definition("upper", UPPER, base=lambda _name: tiny)
    store = ImageStore(tmp_path / "store")
    seen: list[str] = []
    made = build_image(upper, store, progress=lambda _f, text: seen.append(text))
    assert "image tiny is built" in seen
    below = store.resolve("tiny")
    assert made.layers[:-1] == below.layers
    assert made.layers[-1].size < 1000
    assert made.config.env == below.config.env
    tree = names(made, tmp_path / "flat")
    assert b"busybox" in tree["usr"].children[b"bin"].children
    assert set(tree["opt"].children) == {b"hello", b"sh"}
    assert tree["srv"].children[b"new"].mode & 0o777 == 0o440

    seen.clear()
    again = build_image(upper, store, progress=lambda _f, text: seen.append(text))
    assert again.digest == made.digest
    assert "image tiny is built" not in seen  # the base is fresh

    tomorrow = time.time() + 25 * 3600
    build_image(upper, store, progress=lambda _f, text: seen.append(text), now=lambda: tomorrow)
    assert "image tiny is built" in seen


@pytest.mark.net
def test_an_unknown_package_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    definition = ImageDefinition(
        "tiny", "trixie", "extract", 1, packages=("no-such-package-at-all",)
    )
    store = ImageStore(tmp_path / "s")
    with pytest.raises(SetupIncomplete, match=r"no-such-package-at-all"):
        build_image(definition, store)
    assert store.list() == []
    assert not list((tmp_path / "s").glob(".tmp-*"))


def test_an_unreachable_archive_is_reported_with_the_setting(tmp_path: Path) -> None:
    definition = ImageDefinition("tiny", "trixie", "extract", 1, packages=("busybox-static",))
    with pytest.raises(SetupIncomplete) as caught:
        build_image(definition, ImageStore(tmp_path / "s"), f"file://{tmp_path}/nothing")
    assert "WAGGLE_DEBIAN_MIRROR" in caught.value.hint


@pytest.mark.net
def test_a_wheel_with_another_digest_is_refused(tmp_path: Path) -> None:
    wheel = Archive("iniconfig", "2.3.0", ("0" * 64,), {"iniconfig/": "/x/"})
    with pytest.raises(SetupIncomplete, match=r"iniconfig==2\.3\.0"):
        download([wheel], tmp_path)

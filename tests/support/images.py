# SPDX-License-Identifier: Apache-2.0
"""OCI images made by tests: layers from short descriptions, and a layout with one image.

write_layout(path, [busybox_layer()])                  # from scratch, boots
write_layout(path, [[file("a", b"x")], [whiteout("a")]])
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import zstandard

Member = tuple[tarfile.TarInfo, bytes]
Layer = Sequence[Member]

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
ARCHITECTURE = _ARCHITECTURES.get(os.uname().machine, os.uname().machine)
_SUFFIXES = {"gzip": "+gzip", "zstd": "+zstd", "": ""}


def _member(
    name: str, kind: bytes, mode: int, content: bytes, fields: Mapping[str, object]
) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.mtime = kind, mode, len(content), 1_700_000_000
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def file(name: str, content: bytes = b"", mode: int = 0o644, **fields: object) -> Member:
    """Return a regular file; `fields` are `tarfile.TarInfo`'s, such as uid or pax_headers."""
    return _member(name, tarfile.REGTYPE, mode, content, fields)


def directory(name: str, mode: int = 0o755, **fields: object) -> Member:
    return _member(name, tarfile.DIRTYPE, mode, b"", fields)


def symlink(name: str, target: str, **fields: object) -> Member:
    return _member(name, tarfile.SYMTYPE, 0o777, b"", {"linkname": target, **fields})


def hard_link(name: str, target: str, mode: int = 0o644, **fields: object) -> Member:
    return _member(name, tarfile.LNKTYPE, mode, b"", {"linkname": target, **fields})


def device(name: str, kind: bytes, major: int, minor: int, mode: int = 0o600) -> Member:
    return _member(name, kind, mode, b"", {"devmajor": major, "devminor": minor})


def fifo(name: str, mode: int = 0o644) -> Member:
    return _member(name, tarfile.FIFOTYPE, mode, b"", {})


def whiteout(name: str) -> Member:
    parent, _, last = name.rpartition("/")
    return file(f"{parent}/.wh.{last}" if parent else f".wh.{last}")


def opaque(name: str) -> Member:
    return file(f"{name}/.wh..wh..opq")


def busybox_layer(program: Path = Path("/bin/busybox")) -> Layer:
    """Return a whole image: only the static busybox of Debian's package busybox-static."""
    return [directory("bin"), file("bin/busybox", program.read_bytes(), 0o755)]


def tar_bytes(layer: Layer) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in layer:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def compressed(data: bytes, compression: str) -> bytes:
    packers: dict[str, Callable[[bytes], bytes]] = {
        "gzip": lambda plain: gzip.compress(plain, 1, mtime=0),
        "zstd": zstandard.ZstdCompressor(level=1).compress,
        "": bytes,
    }
    return packers[compression](data)


def write_layout(
    path: Path,
    layers: Sequence[Layer | bytes],
    *,
    name: str = "latest",
    config: Mapping[str, object] | None = None,
    compression: str | Sequence[str] = "gzip",
    platform: tuple[str, str] = ("linux", ARCHITECTURE),
) -> str:
    """Make, or add to, the OCI layout at `path`; return the manifest's digest.

    A layer is members or the bytes of a tar. `config` is the `config` object: Env, Cmd and so on.
    `compression` is that of all layers, or a sequence with one per layer.
    """
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def put(data: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    tars = [layer if isinstance(layer, bytes) else tar_bytes(layer) for layer in layers]
    prefix = "application/vnd.oci.image"
    document = {
        "os": platform[0],
        "architecture": platform[1],
        "config": dict(config or {}),
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars],
        },
        "history": [{"created_by": "test"} for _ in tars],
    }
    packings = [compression] * len(tars) if isinstance(compression, str) else compression
    manifest: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": f"{prefix}.manifest.v1+json",
        "config": put(json.dumps(document).encode(), f"{prefix}.config.v1+json"),
        "layers": [
            put(compressed(tar, packing), f"{prefix}.layer.v1.tar{_SUFFIXES[packing]}")
            for tar, packing in zip(tars, packings, strict=True)
        ],
    }
    entry = put(json.dumps(manifest).encode(), f"{prefix}.manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": name}
    index = path / "index.json"
    others: list[object] = json.loads(index.read_text())["manifests"] if index.exists() else []
    index.write_text(json.dumps({"schemaVersion": 2, "manifests": [*others, entry]}))
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return str(entry["digest"])

# SPDX-License-Identifier: Apache-2.0
"""Images for comparing what waggle makes of layers with what umoci unpacks: the honest ones.

Each sample says what is expected of it. Where the two differ, it says how and why; nothing is
normalised in silence. The hostile samples are in `corpus_hostile`.
"""

from __future__ import annotations

import random
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.images import (
    Layer,
    Member,
    device,
    directory,
    fifo,
    file,
    hard_link,
    opaque,
    symlink,
    tar_bytes,
    whiteout,
)

NOISE = random.Random(7)


Layers = Sequence[Layer | bytes | Callable[[], bytes]]


@dataclass(frozen=True)
class Sample:
    """An image, and what waggle and umoci make of it: the same tree, if nothing is said."""

    layers: Layers
    compression: str | Sequence[str] = "gzip"
    refused: str = ""
    """What waggle's message says when it refuses the image."""
    umoci_refuses: bool = False
    for_umoci: Layers = ()
    """The same files as umoci can read them, where it refuses the layers themselves."""
    undated: frozenset[str] = frozenset()
    """Directories that umoci leaves with the time of its work, beside those that no entry names."""
    because: str = ""
    """Why waggle and umoci differ."""


def tars(layers: Layers) -> list[bytes]:
    made = [layer() if callable(layer) else layer for layer in layers]
    return [layer if isinstance(layer, bytes) else tar_bytes(layer) for layer in made]


def attribute(name: str, value: bytes) -> dict[str, str]:
    """A PAX record for an extended attribute; any bytes."""
    return {f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape")}


def attributes(values: Mapping[str, bytes]) -> dict[str, dict[str, str]]:
    headers: dict[str, str] = {}
    for name, value in values.items():
        headers |= attribute(name, value)
    return {"pax_headers": headers}


def sparse(form: str, pieces: int) -> Callable[[], bytes]:
    """A tar by GNU tar of files with holes: `pieces` of data, nothing but a hole, a hole behind."""

    def make() -> bytes:
        with tempfile.TemporaryDirectory() as name:
            here = Path(name)
            with (here / "pieces").open("wb") as out:
                for number in range(pieces):
                    out.seek((2 * number + 1) * 65536)
                    out.write(b"%d" % number * 500)
                out.truncate((2 * pieces + 3) * 65536 + 77)
            with (here / "hole").open("wb") as out:
                out.truncate(1 << 20)
            (here / "whole").write_bytes(b"no hole at all" * 1000)
            how = [f"--format={form}"] if form == "gnu" else [f"--sparse-version={form}"]
            argv = ["tar", "-S", *how, "-C", here, "-c", "pieces", "hole", "whole"]
            if form != "gnu":
                argv.insert(2, "--format=posix")
            return subprocess.run(argv, check=True, capture_output=True).stdout

    return make


def written(form: str, mask: Sequence[Member]) -> bytes:
    """A tar in one of tarfile's formats, such as GNU with its long names."""
    formats = {"gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}
    return b"".join(
        info.tobuf(formats[form], "utf-8", "surrogateescape")
        + content
        + bytes(-len(content) % tarfile.BLOCKSIZE)
        for info, content in mask
    ) + bytes(2 * tarfile.BLOCKSIZE)


CAPABILITY = b"\x01\x00\x00\x02\x00\x04" + bytes(14)
CAPABILITY_OF_A_NAMESPACE = b"\x01\x00\x00\x03\x00\x04" + bytes(14) + struct.pack("<I", 100_000)
ACCESS_LIST = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, rights, who)
    for tag, rights, who in [
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 4, 1234),
        (0x04, 4, 0xFFFFFFFF),
        (0x10, 4, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    ]
)

HONEST: dict[str, Sample] = {
    "plain": Sample(
        [[directory("d", 0o1777, uid=5, gid=6), file("d/f", b"content", 0o640, uid=7, gid=8)]]
    ),
    "empty layers": Sample([[], bytes(1024), b"", [file("x")], []]),
    "every compression in one image": Sample(
        [[file("a", b"1" * 9000)], [file("b", b"2" * 9000)], [hard_link("c", "a")]],
        compression=("gzip", "zstd", ""),
    ),
    "root metadata": Sample([[directory("./", 0o711, uid=1, gid=2), file("x")]]),
    "root metadata alone, twice": Sample(
        [
            [directory(".", 0o700, uid=3, gid=4, **attributes({"user.a": b"1"}))],
            [directory("./", 0o1777, mtime=1_600_000_000)],
        ]
    ),
    "setuid and modes": Sample(
        [
            [
                *(file("su", b"#!", 0o4755), file("sg", b"#!", 0o2755, gid=5)),
                *(file("all", b"#!", 0o7777, uid=1234, gid=5678), file("none", b"", 0o000)),
                *(directory("sgd", 0o2775, gid=50), directory("sticky", 0o1777)),
                fifo("p", 0o4666),
            ]
        ]
    ),
    "sizes": Sample(
        [
            [
                file(f"f{n}", NOISE.randbytes(n))
                for n in (0, 1, 2047, 2048, 2049, 4096, 4097, 99_999)
            ]
        ]
    ),
    "links": Sample(
        [
            [
                file("a", b"1" * 3000),
                hard_link("b", "a"),
                directory("d"),
                hard_link("d/c", "./a"),
                symlink("rel", "d/c"),
                symlink("abs", "/a"),
                symlink("dangling", "no/where"),
                symlink("long", "x/" * 2000 + "y"),
            ]
        ]
    ),
    "hard links to what is no regular file": Sample(
        [
            [
                *(symlink("link", "a"), hard_link("same link", "link", 0o777)),
                *(fifo("pipe", 0o600), hard_link("same pipe", "pipe", 0o600)),
                device("null", tarfile.CHRTYPE, 1, 3),
                hard_link("same null", "null", 0o600),
            ]
        ]
    ),
    "special files": Sample(
        [
            [
                device("null", tarfile.CHRTYPE, 1, 3, 0o666),
                device("disk", tarfile.BLKTYPE, 259, 70_000),
                device("largest", tarfile.BLKTYPE, 4095, (1 << 20) - 1),
                device("zero", tarfile.CHRTYPE, 0, 1),
                fifo("pipe", 0o622),
            ]
        ]
    ),
    "capabilities and other attributes": Sample(
        [
            [
                file("ping", b"x", 0o755, **attributes({"security.capability": CAPABILITY})),
                file("ns", b"", **attributes({"security.capability": CAPABILITY_OF_A_NAMESPACE})),
                file("two", b"y" * 5000, **attributes({"user.1": b"1", "user.2": b"2" * 900})),
                file("bytes", b"", **attributes({"user.b": b"\0\xff\0=\n\x80 \0"})),
                file("trusted", b"", **attributes({"trusted.t": b"t", "user.\u00e4": b"a"})),
                file("acl", b"", 0o640, **attributes({"system.posix_acl_access": ACCESS_LIST})),
                directory("dir", **attributes({"user.d": b"dir", "trusted.opaque": b"y"})),
                symlink("link", "ping", **attributes({"trusted.l": b"l"})),
            ]
        ]
    ),
    "attributes that go": Sample(
        [
            [
                file("f", b"x", **attributes({"user.a": b"1"})),
                directory("d", **attributes({"user.a": b"1", "user.b": b"1"})),
            ],
            [file("f", b"x"), directory("d", **attributes({"user.b": b"2"}))],
        ]
    ),
    "owners by number": Sample(
        [
            [
                file("names lie", uid=1234, gid=4321, uname="root", gname="root"),
                *(file("65535", uid=65535, gid=65535), file("65536", uid=65536, gid=65537)),
                file("largest", b"x", 0o6755, uid=(1 << 32) - 2, gid=(1 << 32) - 2),
                directory("d", uid=1 << 31, gid=(1 << 31) - 1),
                symlink("l", "x", uid=70_000, gid=80_000),
            ],
            lambda: written("gnu", [file("base-256", uid=1 << 31, gid=3_000_000_000)]),
        ]
    ),
    "times": Sample(
        [
            [
                file("epoch", mtime=0),
                file("nanoseconds", pax_headers={"mtime": "1700000000.123456789"}),
                file("finer", pax_headers={"mtime": "1700000000.1234567899999"}),
                file("before", pax_headers={"mtime": "-1"}),
                file("half before", pax_headers={"mtime": "-1.5"}),
                file("long before", pax_headers={"mtime": "-2000000000.000000001"}),
                file("late", pax_headers={"mtime": "8589934592.5"}),
                directory("d", pax_headers={"mtime": "12.25"}),
                file("d/f", mtime=5),
                symlink("l", "d", pax_headers={"mtime": "-3.75"}),
            ],
            lambda: written("gnu", [file("base-256", mtime=-77)]),
        ]
    ),
    "whiteouts": Sample(
        [
            [directory("d"), file("d/a"), file("d/b"), directory("e"), file("e/x"), file("f")],
            [whiteout("d/a"), whiteout("e"), file("new")],
        ]
    ),
    "opaque": Sample(
        [
            [directory("d"), file("d/a"), directory("d/s"), file("d/s/b")],
            [directory("d", 0o750), opaque("d"), file("d/c"), directory("d/s"), file("d/s/n")],
            [file("d/late")],
        ]
    ),
    "opaque behind what it spares": Sample(
        [
            [directory("d"), file("d/a"), directory("d/s"), file("d/s/b"), symlink("l", "d/s")],
            [file("d/c"), directory("d/s", 0o700), file("d/s/n"), opaque("d"), opaque("d/s")],
        ]
    ),
    "opaque root": Sample(
        [[directory("d"), file("d/a"), file("f")], [file(".wh..wh..opq"), file("new")]]
    ),
    "replaced": Sample(
        [
            [directory("a"), file("a/x"), file("b"), symlink("c", "b"), directory("g/h")],
            [file("a", b"now a file"), directory("b"), file("b/y"), directory("c"), file("c/z")],
        ]
    ),
    "replaced and back": Sample(
        [
            [directory("a"), file("a/x"), file("b", b"b")],
            [file("a", b"file"), directory("b", 0o700), file("b/y")],
            [directory("a", 0o711), file("a/z"), file("b", b"again")],
            [symlink("a", "b"), fifo("b")],
        ]
    ),
    "links across layers": Sample(
        [
            [file("a", b"one"), file("k", b"k")],
            [hard_link("b", "a"), hard_link("a2", "/a"), whiteout("k")],
            [file("a", b"another")],
        ]
    ),
    "a link's own mode, owner and time": Sample(
        [
            [file("a", b"1", 0o4755, uid=1, gid=2, mtime=10)],
            [hard_link("b", "a", 0o600, uid=3, gid=4, mtime=20)],
            [hard_link("c", "b", 0o640, uid=3, gid=4, **attributes({"user.x": b"y"}))],
        ]
    ),
    "names of one file are hidden one by one": Sample(
        [
            [file("a", b"1"), *(hard_link(name, "a") for name in "bcd")],
            [whiteout("a"), file("b", b"2")],
            [hard_link("a", "c"), whiteout("d")],
        ]
    ),
    "symlinked parents": Sample(
        [
            [directory("usr/bin"), symlink("bin", "usr/bin"), symlink("abs", "/usr/bin")],
            [file("bin/one", b"1"), file("abs/two", b"2")],
            [whiteout("bin/one"), hard_link("three", "bin/two")],
        ]
    ),
    "many names": Sample(
        [
            [directory("d"), *(file(f"d/{n:03}" + "n" * (n % 200), b"%d" % n) for n in range(700))],
            [whiteout("d/000"), *(file(f"d/{n:03}x" * 3) for n in range(50))],
        ]
    ),
    "thousands in one directory": Sample(
        [
            [file(f"d/{n:05}", b"%d" % n if n % 3 else b"") for n in range(4000)],
            [whiteout(f"d/{n:05}") for n in range(0, 4000, 5)],
        ]
    ),
    "deep": Sample([[file("/".join("d" * 120) + "/f", b"x")], [whiteout("/".join("d" * 120))]]),
    "long and odd names": Sample(
        [
            [
                file("\u00e4 \u00f6\t\n", b"x"),
                file("a" * 255, b"y"),
                file("/".join(["deep" * 20] * 20), b"z"),
                symlink("to a long name", "t" * 300),
                hard_link("linked", "a" * 255),
                *map(file, ("!first", ".hidden", "..x", "~last", "*", "-rf", "a\\b", "\x7f\x1b[2J")),
            ]
        ]
    ),
    "names that are not UTF-8": Sample(
        [
            [
                directory("\udcff"),
                file("\udcff/\udc80\udcfe", b"x"),
                symlink("l", "\udcff/\udc80"),
                hard_link("h", "\udcff/\udc80\udcfe"),
            ],
            lambda: written("gnu", [file("\udcfe" * 200, b"y"), file("latin \udce4", b"z")]),
            [whiteout("\udcff/\udc80\udcfe")],
        ]
    ),
    "GNU long names": Sample(
        [
            lambda: written(
                "gnu",
                [
                    file("/".join(["long" * 20] * 5), b"x"),
                    symlink("l", "/".join(["target" * 10] * 9)),
                    hard_link("h", "/".join(["long" * 20] * 5)),
                ],
            )
        ]
    ),
    "ustar prefix": Sample([lambda: written("ustar", [file("p" * 90 + "/" + "n" * 90, b"x")])]),
    **{
        f"sparse {form}, {pieces} pieces": Sample([sparse(form, pieces)])
        for form in ("gnu", "0.0", "0.1", "1.0")
        for pieces in (3, 40)
    },
}

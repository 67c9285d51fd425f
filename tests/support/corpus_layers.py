# SPDX-License-Identifier: Apache-2.0
"""Images for comparing waggle with umoci: merging of honest layers. See `corpus`."""

from __future__ import annotations

from tests.support.corpus import Sample, attributes
from tests.support.images import (
    directory,
    fifo,
    file,
    hard_link,
    opaque,
    symlink,
    whiteout,
)

LAYERS: dict[str, Sample] = {
    "empty layers": Sample([[], bytes(1024), b"", [file("x")], []]),
    "every compression in one image": Sample(
        [[file("a", b"1" * 9000)], [file("b", b"2" * 9000)], [hard_link("c", "a")]],
        compression=("gzip", "zstd", ""),
        umoci_refuses=True,
        for_umoci=[[file("a", b"1" * 9000)], [file("b", b"2" * 9000)], [hard_link("c", "a")]],
        because="umoci 0.4.7 knows no zstd. The specification has layer.v1.tar+zstd.",
    ),
    "root metadata alone, twice": Sample(
        [
            [directory(".", 0o700, uid=3, gid=4, pax_headers=attributes({"user.a": b"1"}))],
            [directory("./", 0o1777, mtime=1_600_000_000)],
        ]
    ),
    "attributes that go": Sample(
        [
            [
                file("f", b"x", pax_headers=attributes({"user.a": b"1"})),
                directory("d", pax_headers=attributes({"user.a": b"1", "user.b": b"1"})),
            ],
            [file("f", b"x"), directory("d", pax_headers=attributes({"user.b": b"2"}))],
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
        ],
        undated=frozenset({"d/s"}),
        because="umoci does not give a directory back its time after hiding things in it. 'Where"
        " supported, MUST include' mtime, says the specification, and d/s has one.",
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
            [hard_link("c", "b", 0o640, uid=3, gid=4, pax_headers=attributes({"user.x": b"y"}))],
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
        ],
        undated=frozenset({"d"}),
        because="umoci makes the parents d/000xd that no entry names, and does not give d back its"
        " time, which an entry names.",
    ),
    "thousands in one directory": Sample(
        [
            [file(f"d/{n:05}", b"%d" % n if n % 3 else b"") for n in range(4000)],
            [whiteout(f"d/{n:05}") for n in range(0, 4000, 5)],
        ]
    ),
    "deep": Sample([[file("/".join("d" * 120) + "/f", b"x")], [whiteout("/".join("d" * 120))]]),
}

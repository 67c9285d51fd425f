# SPDX-License-Identifier: Apache-2.0
"""Adversarial images for comparing waggle with umoci. See `corpus`."""

from __future__ import annotations

import tarfile

from tests.support.corpus import Sample, attributes, written
from tests.support.images import (
    Member,
    device,
    directory,
    file,
    hard_link,
    opaque,
    symlink,
    tar_bytes,
    whiteout,
)


def of_type(kind: bytes, name: str, content: bytes = b"") -> Member:
    info, _ = file(name, content)
    info.type = kind
    return info, content


def with_global_header() -> bytes:
    """Return an archive with a global header, as `git archive` writes it."""
    info = tarfile.TarInfo()
    return info.create_pax_global_header({"comment": "0123"}) + tar_bytes([file("x", b"1")])


CLIMBS = (
    "umoci takes '..' as if it were at the image's root. The specification asks for no such names,"
    " no builder writes them, and waggle refuses them all, so that none needs to be understood."
)
REMOVES = (
    "umoci removes what has the new name before it looks for the link's target. waggle looks first:"
    " the names of a hard link may be the same, and then nothing changes."
)
NO_TIME = "umoci does not give a directory back its time after hiding things in it."
EPOCH = "No entry names d after it was hidden; waggle gives such directories the epoch."
TYPE_7 = (
    "umoci 0.4.7 knows no type 7. POSIX: where it is not supported it is read as a regular file."
)
GLOBAL = "umoci 0.4.7 takes it for an entry. POSIX: it describes the entries that follow."
WRAPS = "umoci wraps the number around to another device, here 0:1."
LOWER_HALF = "chown takes the lower 32 bits: umoci leaves root as the owner."

HOSTILE: dict[str, Sample] = {
    "climbing names": Sample([[file("../../x", b"1")]], refused=r"climbs out", because=CLIMBS),
    "a name that climbs and stays inside": Sample(
        [[file("d/../x", b"1")]], refused=r"climbs out", because=CLIMBS
    ),
    "a link that climbs": Sample(
        [[file("x"), hard_link("h", "../../x")]], refused=r"climbs out", because=CLIMBS
    ),
    "absolute names": Sample(
        [[file("/etc/passwd", b"x"), file("//tmp//y"), directory("///"), hard_link("h", "/tmp/y")]]
    ),
    "climbing symlink": Sample(
        [[symlink("evil", "../../../../../tmp")], [file("evil/inside", b"x")]]
    ),
    "absolute symlink out": Sample(
        [
            [symlink("out", "/../../etc"), symlink("more", "out/../out"), directory("etc")],
            [file("out/shadow", b"x"), file("more/passwd", b"y")],
            [whiteout("out/shadow"), hard_link("h", "more/passwd")],
        ]
    ),
    "whiteouts through a symlink that leads out": Sample(
        [
            [directory("a/etc"), file("a/etc/x"), file("etc/x"), symlink("a/l", "/etc")],
            [whiteout("a/l/x"), opaque("a/l")],
        ]
    ),
    "a whiteout of its own parent": Sample(
        [
            [directory("d"), file("d/old"), directory("d/s"), file("d/s/old")],
            [file("d/s/new"), whiteout("d/s"), whiteout("d")],
        ],
        undated=frozenset({"d", "d/s"}),
        because=NO_TIME,
    ),
    "a whiteout before what takes the place": Sample(
        [
            [directory("d"), file("d/old"), file("f", b"old")],
            [whiteout("d"), file("d/new"), whiteout("f"), file("f", b"new")],
        ],
        undated=frozenset({"d"}),
        because=EPOCH,
    ),
    "a whiteout of itself": Sample([[file("a"), whiteout("a"), whiteout("b"), file("b")]]),
    "a whiteout of a whiteout": Sample(
        [[file("a")], [file(".wh..wh.a")], [file("d/.wh..wh.aufs"), file(".wh..wh.plnk")]]
    ),
    "whiteouts that are no empty files": Sample(
        [
            [file("a"), directory("b"), file("b/x"), file("c"), file("e")],
            [
                file(".wh.a", b"content"),
                directory(".wh.b"),
                symlink(".wh.c", "/etc"),
                hard_link(".wh.e", "nothing"),
            ],
        ]
    ),
    "whiteouts of what is not there": Sample(
        [[file("a")], [whiteout("b"), whiteout("a/b"), whiteout("c/d/e")]]
    ),
    "an opaque file": Sample([[file("f", b"x")], [opaque("f")]]),
    "an opaque link to a directory": Sample(
        [[directory("d"), file("d/x"), symlink("l", "d")], [opaque("l"), file("d/y")]]
    ),
    "a malformed whiteout": Sample(
        [[file("a"), file(".wh.")]], refused=r"malformed whiteout", umoci_refuses=True
    ),
    "a whiteout of the parent": Sample(
        [[file("d/a")], [file("d/.wh..")]], refused=r"malformed whiteout", umoci_refuses=True
    ),
    "a whiteout of the grandparent": Sample(
        [[file("d/a")], [file("d/.wh...")]], refused=r"malformed whiteout", umoci_refuses=True
    ),
    "a link to what is hidden": Sample(
        [[file("a")], [whiteout("a"), hard_link("b", "a")]],
        refused=r"missing",
        umoci_refuses=True,
    ),
    "a link before its hiding": Sample([[file("a", b"1")], [hard_link("b", "a"), whiteout("a")]]),
    "a link to nothing": Sample([[hard_link("b", "a")]], refused=r"missing", umoci_refuses=True),
    "a link to a directory": Sample(
        [[directory("d"), hard_link("b", "d")]], refused=r"to a directory", umoci_refuses=True
    ),
    "a link to itself": Sample(
        [[file("a", b"x"), hard_link("a", "a", 0o600)]],
        umoci_refuses=True,
        for_umoci=[[file("a", b"x")]],
        because=REMOVES,
    ),
    "a link over a directory to what is in it": Sample(
        [[file("d/x", b"x")], [hard_link("d", "d/x")]],
        umoci_refuses=True,
        for_umoci=[[file("d", b"x")]],
        because=REMOVES,
    ),
    "a link over a directory": Sample(
        [[file("a", b"x"), directory("d"), file("d/y")], [hard_link("d", "a")]]
    ),
    "a link to a symlink out": Sample(
        [[symlink("out", "/etc/passwd"), hard_link("h", "out", 0o777)], [file("h", b"x")]]
    ),
    "a link through a symlink out": Sample(
        [
            [directory("etc"), file("etc/p", b"1"), symlink("out", "/../etc")],
            [hard_link("h", "out/p")],
        ]
    ),
    "symlinks with modes": Sample(
        [
            [
                symlink("a", "x", mode=0o644),
                symlink("b", "x", mode=0o4000),
                hard_link("c", "a", 0o600),
            ]
        ]
    ),
    "a loop of symlinks": Sample(
        [[symlink("a", "b"), symlink("b", "a"), file("a/x")]],
        refused=r"loop",
        umoci_refuses=True,
    ),
    "something below a file": Sample(
        [[file("a")], [file("a/b")]], refused=r"no directory", umoci_refuses=True
    ),
    "duplicates": Sample(
        [
            [
                *(
                    file("f", b"1"),
                    file("f", b"22", 0o600, pax_headers=attributes({"user.x": b"y"})),
                ),
                *(directory("d", 0o700), file("d/x"), directory("d", 0o755, uid=9)),
                *(file("s", b"1"), symlink("s", "f"), file("t"), hard_link("t", "f")),
                *(symlink("u", "d"), directory("u"), file("u/x"), file("u", b"u")),
            ]
        ]
    ),
    "the same entry in two spellings": Sample(
        [[file("d/x", b"1"), file("./d//x", b"2"), file("/d/./x", b"3")]]
    ),
    "contiguous file": Sample(
        [[of_type(b"7", "c", b"abc"), file("x")]],
        umoci_refuses=True,
        for_umoci=[[file("c", b"abc"), file("x")]],
        because=TYPE_7,
    ),
    "old regular file and directory": Sample(
        [lambda: written("ustar", [of_type(b"\0", "old", b"abc"), of_type(b"\0", "dir/")])]
    ),
    "unknown type": Sample(
        [[of_type(b"Q", "q"), file("x")]], refused=r"unknown type", umoci_refuses=True
    ),
    "global header": Sample(
        [with_global_header], umoci_refuses=True, for_umoci=[[file("x", b"1")]], because=GLOBAL
    ),
    "devices that no kernel has": Sample(
        [[device("d", tarfile.CHRTYPE, 1 << 12, 1)]], refused=r"device number", because=WRAPS
    ),
    "an owner that no kernel has": Sample(
        [[file("f", uid=1 << 32)]], refused=r"impossible owner", because=LOWER_HALF
    ),
    "owners at the end of what there is": Sample(
        [[file("nobody", uid=(1 << 32) - 2, gid=(1 << 32) - 2), file("none", uid=(1 << 32) - 1)]]
    ),
    "an attribute of no namespace": Sample(
        [[file("f", b"x", pax_headers=attributes({"elsewhere.a": b"1", "user.b": b"2"}))]]
    ),
    "the root is a file": Sample([[file(".", b"x")]], refused=r"root", umoci_refuses=True),
    "a whiteout of the root": Sample(
        [[file("x")], [file("./.wh..")]], refused="malformed", umoci_refuses=True
    ),
    "a truncated archive": Sample(
        [tar_bytes([file("f", b"x" * 5000)])[:2000]], refused=r"in the middle", umoci_refuses=True
    ),
}

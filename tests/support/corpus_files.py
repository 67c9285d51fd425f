# SPDX-License-Identifier: Apache-2.0
"""Images for comparing waggle with umoci: kinds of entries in a layer. See `corpus`."""

from __future__ import annotations

import random
import struct
import tarfile

from tests.support.corpus import Sample, attributes, sparse, written
from tests.support.images import (
    device,
    directory,
    fifo,
    file,
    hard_link,
    symlink,
    whiteout,
)

NOISE = random.Random(7)

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

FILES: dict[str, Sample] = {
    "plain": Sample(
        [[directory("d", 0o1777, uid=5, gid=6), file("d/f", b"content", 0o640, uid=7, gid=8)]]
    ),
    "root metadata": Sample([[directory("./", 0o711, uid=1, gid=2), file("x")]]),
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
        [[file(f"f{n}", NOISE.randbytes(n)) for n in (0, 1, 2047, 2048, 2049, 4096, 4097, 99_999)]]
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
                file(
                    "ping", b"x", 0o755, pax_headers=attributes({"security.capability": CAPABILITY})
                ),
                file(
                    "ns",
                    b"",
                    pax_headers=attributes({"security.capability": CAPABILITY_OF_A_NAMESPACE}),
                ),
                file(
                    "two",
                    b"y" * 5000,
                    pax_headers=attributes({"user.1": b"1", "user.2": b"2" * 900}),
                ),
                file("bytes", b"", pax_headers=attributes({"user.b": b"\0\xff\0=\n\x80 \0"})),
                file(
                    "trusted", b"", pax_headers=attributes({"trusted.t": b"t", "user.\u00e4": b"a"})
                ),
                file(
                    "acl",
                    b"",
                    0o640,
                    pax_headers=attributes({"system.posix_acl_access": ACCESS_LIST}),
                ),
                directory(
                    "dir", pax_headers=attributes({"user.d": b"dir", "trusted.opaque": b"y"})
                ),
                symlink("link", "ping", pax_headers=attributes({"trusted.l": b"l"})),
            ]
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
    "long and odd names": Sample(
        [
            [
                file("\u00e4 \u00f6\t\n", b"x"),
                file("a" * 255, b"y"),
                file("/".join(["deep" * 20] * 20), b"z"),
                symlink("to a long name", "t" * 300),
                hard_link("linked", "a" * 255),
                *map(
                    file, ("!first", ".hidden", "..x", "~last", "*", "-rf", "a\\b", "\x7f\x1b[2J")
                ),
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
        for form in ("0.0", "0.1", "1.0")
        for pieces in (3, 40)
    },
    **{
        f"sparse gnu, {pieces} pieces": Sample(
            [sparse("gnu", pieces)],
            umoci_refuses=True,
            for_umoci=[sparse("1.0", pieces)],
            because="umoci 0.4.7 knows no type S. 'Sparse files SHOULD NOT be used because they"
            " lack consistent support across tar implementations', says the specification; GNU tar"
            " writes them, and the files are the same in format 1.0.",
        )
        for pieces in (3, 40)
    },
}

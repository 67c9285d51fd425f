# SPDX-License-Identifier: Apache-2.0
"""The outer machine's command line."""

from __future__ import annotations

from pathlib import Path

from lab.machine import Disks, qemu_argv


def argv(name: str = "run") -> list[str]:
    here = Path(f"/tmp/{name}")
    disks = Disks(*(here / disk for disk in ("base", "parts", "project", "report")))
    return qemu_argv(
        "/bin/qemu", kernel=here / "k", initramfs=here / "i", disks=disks, console=here / "c",
        progress=7,
    )  # fmt: skip


def test_qemu_dies_with_the_lab_and_has_an_amd_cpu_but_no_network() -> None:
    line = argv()
    assert line[:5] == ["setpriv", "--pdeathsig=KILL", "--", "/bin/qemu", "-M"]
    assert line[line.index("-cpu") + 1].startswith("max,erms=off,")
    assert line[line.index("-accel") + 1].startswith("tcg,thread=multi")
    assert {"-no-reboot", "-nodefaults"} <= set(line)
    assert not any("net" in word.split(",")[0] for word in line)


def test_disks_come_in_order_and_shared_ones_are_not_changed() -> None:
    drives = [word for option, word in zip(argv(), argv()[1:], strict=False) if option == "-drive"]
    assert [drive.split("file=/tmp/run/")[1] for drive in drives] == [
        "base,snapshot=on",
        "parts,snapshot=on",
        "project,read-only=on",
        "report,cache=unsafe",
    ]


def test_a_comma_in_a_path_is_escaped() -> None:
    assert any("file=/tmp/a,,b/base,snapshot=on" in word for word in argv("a,b"))

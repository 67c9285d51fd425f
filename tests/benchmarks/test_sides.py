# SPDX-License-Identifier: Apache-2.0
"""Both sides of a comparison do the same work: the same frame, the same machine, the same bytes."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from benchmarks.files import SIZE, contents
from benchmarks.listing import FEW, remember

from benchmarks import bare, guest
from waggle.config import Settings, load
from waggle.domain.environment import State
from waggle.domain.machine import Resources
from waggle.domain.programs import Command
from waggle.infra.qemu.argv import Descriptors, qemu_argv
from waggle.infra.qemu.board import SMALL
from waggle.infra.qemu.frozen import tsc_khz
from waggle.infra.ssh.run.launcher import frame
from waggle.infra.store.environments import SqliteStore


@pytest.mark.parametrize(
    "argv, code, extension",
    [(("true",), None, ""), (("python3", "{file}"), "print('é')".encode(), ".py")],
)
def test_both_sides_send_the_launcher_the_same_frame(
    argv: tuple[str, ...], code: bytes | None, extension: str
) -> None:
    command = Command(argv, timeout=1, output_limit=1, code=code, extension=extension)
    assert guest.frame(argv, code, extension) == frame(command) + (code or b"")


@pytest.mark.parametrize("accelerator", ["kvm", "tcg"])
def test_the_bare_machine_has_the_same_options(accelerator: str) -> None:
    settings = load()
    plain = bare.qemu_argv(
        settings,
        accelerator=accelerator,
        kernel=Path("/kernel"),
        disks=(Path("/a"), Path("/b"), Path("/c")),
        port=1,
    )
    ours = ours_argv(settings, accelerator)
    for option in ("-cpu", "-smp", "-m", "-append"):
        assert value(plain, option) == value(ours, option)
    assert value(plain, "-accel") == value(ours, "-accel").partition(",")[0] == accelerator
    assert [word for word in plain if "readonly=off" in word] == [
        "if=none,id=disk2,format=raw,readonly=off,file=/c"
    ]


def ours_argv(settings: Settings, accelerator: str) -> list[str]:
    resources = Resources(settings.default_cpus, settings.default_memory_mb, settings.scratch_mb)
    fds = Descriptors(3, 4, 5, 6, 7, monitor=8, console=9, agent=10, renewal=11)
    return qemu_argv(
        settings.qemu_binary,
        accelerator=accelerator,
        resources=resources,
        ssh_port=1,
        fds=fds,
        board=SMALL.with_counter(tsc_khz() if accelerator == "tcg" else None),
    )


def value(argv: list[str], option: str) -> str:
    return argv[argv.index(option) + 1]


def test_contents_are_8_mib_for_both_sides(tmp_path: Path) -> None:
    made = contents(tmp_path)
    for content in made.values():
        assert content.local.read_bytes() == content.data
        assert len(content.data) == SIZE == 8 << 20
    assert made["text"].text.encode() == made["text"].data
    assert base64.b64decode(made["base64"].text) == made["base64"].data


@pytest.mark.anyio
async def test_records_are_stored_as_destroyed(tmp_path: Path) -> None:
    await remember(tmp_path, FEW)
    store = await SqliteStore.open(tmp_path / "state.db")
    try:
        assert await store.unfinished() == []
    finally:
        await store.aclose()
    assert State.DESTROYED.value.encode() in (tmp_path / "state.db").read_bytes()

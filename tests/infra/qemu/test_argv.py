# SPDX-License-Identifier: Apache-2.0
"""The QEMU command line for any machine."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.machine import Resources
from waggle.infra.qemu.argv import Descriptors, Memory, kind, qemu_argv
from waggle.infra.qemu.board import FULL, SMALL, Board

FDS = Descriptors(
    kernel=10,
    kit=11,
    image=12,
    scratch=13,
    identity=14,
    monitor=15,
    console=16,
    agent=17,
    renewal=18,
)


def argv(
    accelerator: str = "tcg",
    resources: Resources | None = None,
    port: int | None = 10022,
    memory: Memory | None = None,
    incoming: bool = False,
    board: Board = SMALL,
) -> list[str]:
    return qemu_argv(
        "/usr/bin/qemu",
        accelerator=accelerator,
        resources=resources or Resources(cpus=2, memory_mib=512, disk_mib=1024),
        ssh_port=port,
        fds=FDS._replace(initrd=19) if board.has_initrd else FDS,
        board=board,
        memory=memory,
        incoming=incoming,
    )


def option(words: list[str], name: str) -> list[str]:
    """Return the values of an option, in order."""
    return [value for key, value in pairwise(words) if key == name]


def test_processors_and_memory_are_as_requested() -> None:
    words = argv(resources=Resources(cpus=3, memory_mib=768, disk_mib=1))
    assert option(words, "-smp") == ["3"]
    assert option(words, "-m") == ["768M"]


@pytest.mark.parametrize(
    "accelerator, cpu",
    [
        ("tcg", "max,vmx=off,svm=off,min-xlevel=0x8000000a,erms=off,fsrm=off"),
        ("kvm", "host,vmx=off,svm=off"),
    ],
)
def test_the_accelerator_decides_the_processor(accelerator: str, cpu: str) -> None:
    words = argv(accelerator)
    (accel,) = option(words, "-accel")
    assert accel.split(",")[0] == accelerator
    assert option(words, "-cpu") == [cpu]


def test_no_default_device_or_configuration_is_used() -> None:
    words = argv()
    for flag in ("-nodefaults", "-no-user-config", "-no-reboot"):
        assert flag in words
    assert option(words, "-display") == ["none"]


def test_all_four_denials_of_the_sandbox_are_on() -> None:
    (sandbox,) = option(argv(), "-sandbox")
    assert sandbox == ("on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")


def test_the_network_is_restricted_and_leads_only_to_the_ssh_server() -> None:
    (network,) = option(argv(port=12345), "-netdev")
    assert network == ("user,id=net0,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.2:12345-:22")


def test_only_the_scratch_disk_is_writable_and_disks_are_in_the_guests_order() -> None:
    words = argv()
    disks = [device for device in option(words, "-device") if "blk" in device]
    order = [re.search(r"drive=(\w+)", disk) for disk in disks]
    assert [match[1] for match in order if match] == ["kit", "image", "scratch", "identity"]
    layers = option(words, "-blockdev")
    assert len(layers) == 8
    for layer in layers:
        assert ("read-only=on" in layer) != ("scratch" in layer)


@given(st.permutations(range(3, 12)))
def test_every_descriptor_is_named_exactly_in_its_place(numbers: list[int]) -> None:
    fds = Descriptors(*numbers)
    words = qemu_argv("q", accelerator="tcg", resources=Resources(1, 64, 1), ssh_port=1, fds=fds)
    assert option(words, "-kernel") == [f"/proc/self/fd/{fds.kernel}"]
    sets = {value.split(",")[1]: value.split(",")[0] for value in option(words, "-add-fd")}
    assert sets == {
        "set=1": f"fd={fds.kit}",
        "set=2": f"fd={fds.image}",
        "set=3": f"fd={fds.scratch}",
        "set=4": f"fd={fds.identity}",
    }
    channels = [value.split(",")[1:] for value in option(words, "-chardev")]
    assert channels == [
        ["id=monitor", f"fd={fds.monitor}"],
        ["id=console", f"fd={fds.console}"],
        ["id=agent", f"fd={fds.agent}"],
        ["id=renewal", f"fd={fds.renewal}"],
    ]


@pytest.mark.parametrize(
    "memory, ending",
    [
        (None, "memory-backend-ram,id=ram,size=512M"),
        (Memory(9, shared=True), "mem-path=/proc/self/fd/9,share=on"),
        (Memory(9, shared=False), "mem-path=/proc/self/fd/9,share=off"),
    ],
)
def test_memory_has_one_name_and_is_shared_only_on_request(
    memory: Memory | None, ending: str
) -> None:
    (backend,) = option(argv(memory=memory), "-object")
    assert "id=ram,size=512M" in backend
    assert backend.endswith(ending)
    (machine,) = option(argv(memory=memory), "-M")
    assert machine.endswith("memory-backend=ram")


def test_an_incoming_machine_does_not_boot_and_needs_no_port() -> None:
    words = argv(port=None, incoming=True)
    assert option(words, "-incoming") == ["defer"]
    assert option(words, "-netdev") == ["user,id=net0,restrict=on,ipv6=off"]
    assert "-incoming" not in argv()


def test_it_has_no_path_of_the_host() -> None:
    own = ("/proc/self/fd/", "/dev/fdset/", "/usr/bin/qemu", SMALL.command_line)
    with_paths = [word for word in argv() if "/" in word]
    assert all(any(known in word for known in own) for word in with_paths)


def test_an_emulated_machine_gets_the_speed_of_its_counter() -> None:
    assert SMALL.with_counter(None) == SMALL
    assert "tsc" not in SMALL.command_line
    words = argv(board=SMALL.with_counter(2_500_000))
    assert option(words, "-append") == [f"{SMALL.command_line} tsc_early_khz=2500000 tsc=reliable"]


def test_the_board_of_the_full_kernel_has_the_same_devices_on_another_bus() -> None:
    small, full = (option(argv(board=board), "-device") for board in (SMALL, FULL))
    there = [device.replace("-pci,disable-legacy=on", "-device") for device in full]
    assert there == small
    assert all("disable-legacy=on" in device for device in full if "virtio-" in device)


def test_the_full_kernel_has_an_initramfs_and_the_small_one_none() -> None:
    words = argv(board=FULL)
    assert option(words, "-initrd") == ["/proc/self/fd/19"]
    assert "-initrd" not in argv()
    assert option(words, "-append") == [FULL.command_line]
    (machine,) = option(words, "-M")
    assert machine.startswith("q35,")
    assert FDS._replace(initrd=19).open() == [*range(10, 20)]
    assert FDS.open() == [*range(10, 19)]


def test_machines_with_different_arguments_are_of_different_kinds() -> None:
    """Processors, memory, ports and files are not part of the kind; other code compares them."""
    kinds = {kind(accel, board) for accel in ("tcg", "kvm") for board in (SMALL, FULL)}
    assert len(kinds) == 4
    assert kind("tcg") == kind("tcg") == kind("tcg", SMALL)


def test_a_write_error_stops_the_machine_and_the_kind_is_that_of_older_machines() -> None:
    """It stops whatever the cause; read errors are reported to the guest."""
    assert [word for word in argv() if "werror" in word] == [
        "virtio-blk-device,drive=scratch,werror=stop,rerror=report"
    ]
    assert (kind("tcg"), kind("kvm")) == ("fe5c0e19bec1e7e9", "7e9495c4325b6fd2")

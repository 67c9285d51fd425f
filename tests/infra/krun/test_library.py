# SPDX-License-Identifier: Apache-2.0
"""Calls into a shared library: they work, or the error names the call and its reason.

The libraries are made here, of bytes.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.infra.krun.elf import krun_library, refuses, returns

from waggle.infra.krun.library import KrunError, Libkrun
from waggle.infra.krun.probe import GONE_IN_2, OPTIONAL, SINCE

Call = Callable[[Libkrun], object]
CALLS: dict[str, Call] = {
    "krun_get_max_vcpus": Libkrun.max_vcpus,
    "krun_init_log": Libkrun.create,
    "krun_create_ctx": Libkrun.create,
    "krun_set_vm_config": lambda made: made.set_size(1, 64),
    "krun_set_kernel": lambda made: made.set_kernel("/k", "quiet"),
    "krun_disable_implicit_init": lambda made: made.set_kernel("/k", "quiet"),
    "krun_add_disk3": lambda made: made.add_disk("kit", "/d", read_only=True),
    "krun_disable_implicit_vsock": lambda made: made.add_vsock(22, "ssh"),
    "krun_add_vsock": lambda made: made.add_vsock(22, "ssh"),
    "krun_add_vsock_port2": lambda made: made.add_vsock(22, "ssh"),
    "krun_set_console_output": lambda made: made.set_console("/c"),
    "krun_add_virtio_console_multiport": lambda made: made.add_ports(("agent", 5)),
    "krun_add_console_port_inout": lambda made: made.add_ports(("agent", 5)),
    "krun_start_enter": Libkrun.start,
}


def library(tmp_path: Path, *lacks: str, **others: bytes) -> Libkrun:
    return Libkrun(str(krun_library(tmp_path / "libkrun.so", *lacks, **others)))


def created(tmp_path: Path, *lacks: str, **others: bytes) -> Libkrun:
    made = library(tmp_path, *lacks, **others)
    made.create()
    return made


def test_the_calls_above_are_all_declared_calls() -> None:
    assert set(CALLS) | {"krun_add_disk2"} == set(SINCE)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_works_raises_nothing(tmp_path: Path, name: str) -> None:
    CALLS[name](created(tmp_path))


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_fails_is_named_with_its_reason(tmp_path: Path, name: str) -> None:
    made = library(tmp_path, **{name: returns(-22)})
    made._context = 0
    with pytest.raises(KrunError) as caught:
        CALLS[name](made)
    assert str(caught.value) == f"{name} failed: Invalid argument (EINVAL)."


@pytest.mark.parametrize("name", sorted(set(CALLS) - OPTIONAL))
def test_a_missing_function_is_named(tmp_path: Path, name: str) -> None:
    made = library(tmp_path, name)
    assert not made.has(name)
    made._context = 0
    with pytest.raises(KrunError) as caught:
        CALLS[name](made)
    assert str(caught.value) == f"libkrun has no {name}."


def test_an_older_library_gets_the_older_calls(tmp_path: Path) -> None:
    made = created(tmp_path, *OPTIONAL, krun_add_disk2=returns(-2))
    made.set_kernel("/k", "quiet")
    with pytest.raises(KrunError, match=r"krun_add_disk2 failed: No such file"):
        made.add_disk("kit", "/d", read_only=True)


def test_a_library_of_2_x_is_reported_by_its_missing_functions(tmp_path: Path) -> None:
    made = created(tmp_path, *GONE_IN_2)
    with pytest.raises(KrunError, match="has no krun_set_console_output"):
        made.set_console("/c")


def test_a_number_that_is_no_errno_is_reported_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(KrunError, match=r"krun_create_ctx failed: .*9999.* \(\?\)"):
        created(tmp_path, krun_create_ctx=returns(-9999))


@pytest.mark.parametrize("cpus,memory", [(256, 64), (-1, 64), (1, 1 << 32), (1, -1)])
def test_numbers_out_of_range_never_reach_libkrun(tmp_path: Path, cpus: int, memory: int) -> None:
    made = created(tmp_path, krun_set_vm_config=returns(-1))
    with pytest.raises(KrunError, match="krun_set_vm_config does not take this"):
        made.set_size(cpus, memory)


def test_calls_refer_to_the_machine_that_was_created(tmp_path: Path) -> None:
    made = created(tmp_path, krun_create_ctx=returns(7), krun_start_enter=refuses(0))
    with pytest.raises(KrunError, match="E2BIG"):  # errno 7
        made.start()


def test_a_context_of_0_is_valid(tmp_path: Path) -> None:
    created(tmp_path, krun_start_enter=refuses(0)).start()


def test_before_create_no_machine_can_be_configured(tmp_path: Path) -> None:
    with pytest.raises(KrunError, match="krun_set_vm_config does not take this"):
        library(tmp_path).set_size(1, 64)


def test_a_vsock_has_no_tsi(tmp_path: Path) -> None:
    made = created(tmp_path, krun_add_vsock=refuses(1))
    made.add_vsock(22, "ssh")
    with pytest.raises(KrunError, match="krun_add_vsock failed"):
        made._configure("krun_add_vsock", 1)


def test_a_port_is_added_to_the_console_made_for_it(tmp_path: Path) -> None:
    console = {"krun_add_virtio_console_multiport": returns(5)}
    made = created(tmp_path, **console, krun_add_console_port_inout=refuses(1))
    with pytest.raises(KrunError, match=r"krun_add_console_port_inout failed: .*EIO"):  # errno 5
        made.add_ports(("agent", 9))


@pytest.mark.parametrize("kind", ["absent", "text", "empty", "directory", "not UTF-8"])
def test_a_file_that_is_no_library_cannot_be_loaded(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "libkrun.so"
    if kind in {"text", "empty"}:
        path.write_bytes(b"no library" * (kind == "text"))
    elif kind == "directory":
        path.mkdir()
    elif kind == "not UTF-8":
        path = tmp_path / "\udcff"
    with pytest.raises(KrunError, match=r"^libkrun cannot be loaded: .*\.$"):
        Libkrun(str(path))


def test_importing_a_runner_loads_no_slow_module() -> None:
    """No loaded module may take longer to import than the rest together."""
    code = (
        "import sys; sys.path[:] = sys.argv[1:]\n"
        "import waggle.infra.krun.runner\n"
        "print(*sorted(sys.modules))"
    )
    argv = [sys.executable, "-I", "-S", "-c", code, *sys.path]
    loaded = set(subprocess.run(argv, capture_output=True, check=True, text=True).stdout.split())
    assert "waggle.infra.krun.runner" in loaded
    heavy = {"asyncio", "cffi", "dataclasses", "json", "pathlib", "re", "socket", "typing"}
    assert not loaded & heavy

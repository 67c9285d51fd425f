# SPDX-License-Identifier: Apache-2.0
"""Diagnoses of failed runs: the cause that evidence proves, and none without evidence."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.domain.evidence import FAILED, MIB, diagnosis_of, failed

from waggle.domain.diagnosis import Diagnosis, Evidence, Module, RunFacts, Space
from waggle.domain.diagnosis.lacking import TOOLS, missing_command
from waggle.domain.diagnosis.packages import PACKAGE_OF
from waggle.domain.diagnosis.rules import diagnose, machine_died
from waggle.domain.network import NO_NETWORK, PUBLIC_NETWORK, parse_network
from waggle.domain.network.decisions import Decision
from waggle.domain.programs import GuestUser
from waggle.domain.programs.runtime import RuntimeName

HUGE = 10**20 - 1  # a number that a hostile root may write into a record
FULL = Space(4096, 1000 * MIB)


def diagnosis(evidence: Evidence, **record: object) -> Diagnosis | None:
    return diagnose(replace(evidence, record=replace(evidence.record, **record)))  # pyright: ignore[reportArgumentType] - fields by name


def code(evidence: Evidence, **record: object) -> str | None:
    found = diagnosis(evidence, **record)
    return found.code if found else None


@pytest.mark.parametrize("exit_code", [1, 2, 3, 64, 125, 128, 254, 255])
def test_a_failure_without_evidence_has_no_diagnosis(exit_code: int) -> None:
    assert diagnose(replace(FAILED, exit_code=exit_code)) is None


def test_a_timeout_without_evidence_has_no_diagnosis() -> None:
    ended = replace(FAILED, exit_code=None)
    assert diagnosis(ended, exit_code=None, signal=9) is None
    assert code(ended, forks_refused=3) == "too_many_processes"


def test_out_of_memory_states_the_limits_and_the_next_step() -> None:
    killed = replace(FAILED, exit_code=None, signal="SIGKILL")
    found = diagnosis(killed, oom_kills=2, memory_peak=455 * MIB)
    assert found == Diagnosis(
        "out_of_memory",
        "Out of memory at 512 MiB, of which programs share 460: the guest's kernel killed the run. "
        "This run used up to 455 MiB.",
        "Use less memory: read data in pieces, run fewer processes at once. Or take one "
        "with more: create_environment with memory_mb=1024.",
    )
    shared = diagnosis(killed, oom_kills=1, memory_shared=300 * MIB)
    assert shared
    assert "/dev/shm" in shared.next_step
    assert "hold 300 MiB" in shared.next_step


def test_a_kill_without_an_oom_kill_is_not_out_of_memory() -> None:
    killed = replace(FAILED, exit_code=None, signal="SIGKILL")
    assert code(killed) == "killed_by_signal"


@pytest.mark.parametrize(
    "record, expected, words",
    [
        ({}, "command_not_found", "no program prog in"),
        ({"file": "/x/prog", "needs": "/usr/bin/p9"}, "interpreter_not_found", "/x/prog is there"),
        (
            {"file": "/x/prog", "needs": "/bin/sh?", "needs_carriage_return": True},
            "interpreter_not_found",
            "carriage return",
        ),
    ],
)
def test_a_program_that_the_launcher_could_not_execute(
    record: dict[str, object], expected: str, words: str
) -> None:
    found = diagnosis(replace(FAILED, exit_code=127), exec_error=errno.ENOENT, **record)
    assert found
    assert found.code == expected
    assert words in found.cause


@pytest.mark.parametrize("exit_code", [2, 126, 127])
def test_a_shell_that_was_given_a_script_with_windows_line_ends(exit_code: int) -> None:
    failed = replace(FAILED, exit_code=exit_code)
    found = diagnosis(failed, needs="./s.sh", needs_carriage_return=True)
    assert found
    assert found.code == "windows_line_ends"
    assert "./s.sh" in found.cause
    assert code(replace(failed, exit_code=1), needs="./s.sh", needs_carriage_return=True) is None


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOEXEC, errno.ELOOP, HUGE])
def test_any_other_exec_error_is_not_executable(number: int) -> None:
    assert code(replace(FAILED, exit_code=126), exec_error=number) == "not_executable"


@pytest.mark.parametrize(
    "number, cause",
    [
        (errno.ENOENT, "does not exist, or is no directory; nothing was run"),
        (errno.ENOTDIR, "does not exist, or is no directory; nothing was run"),
        (errno.EACCES, "could not be entered: Permission denied; nothing was run"),
        (HUGE, f"could not be entered: error {HUGE}; nothing was run"),
    ],
)
def test_a_directory_that_cannot_be_entered(number: int, cause: str) -> None:
    found = diagnosis(replace(FAILED, exit_code=125), directory_error=number)
    assert found
    assert (found.code, found.cause) == (
        "no_working_directory",
        f"The directory to run in {cause}.",
    )
    assert "leave cwd out" in found.next_step


def test_a_diagnosis_from_the_exit_code_alone_is_marked_as_uncertain() -> None:
    for number, expected in ((127, "command_not_found"), (126, "not_executable")):
        found = diagnose(replace(FAILED, exit_code=number))
        assert found
        assert found.code == expected
        assert "may also have chosen it" in found.cause
    found = diagnose(replace(FAILED, exit_code=139))
    assert found
    assert "SIGSEGV" in found.cause
    assert "no proof" in found.cause


def test_a_signal_that_ssh_cannot_name_is_read_from_the_record() -> None:
    found = diagnosis(replace(FAILED, exit_code=135), exit_code=None, signal=7)
    assert found
    assert found.cause.startswith("Signal SIGBUS ended it:")


def test_a_full_disk_and_exhausted_inodes_are_diagnosed() -> None:
    found = diagnosis(FAILED, disk=FULL)
    assert found
    assert found.cause == "The disk is full: 0.0 of 1,000 MiB are free. Writing fails."
    assert "disk_mb=2048" in found.next_step
    assert code(FAILED, disk=Space(MIB, 1000 * MIB)) is None
    found = diagnosis(FAILED, inodes=Space(0, 2000))
    assert found
    assert "all 2,000 are taken" in found.cause
    assert code(FAILED, inodes=Space(0, 0)) is None  # a file system without a fixed number
    assert code(replace(FAILED, exit_code=135), exit_code=None, signal=7, disk=FULL) == "disk_full"


REFUSED = Decision("10.0.0.9", 443, "private", "it is a private address")


def test_refused_connections_are_listed_once_and_limited() -> None:
    many = tuple(
        Decision(f"h{n}.test", 22, "port", "port 22 is not open to guests") for n in range(5)
    )
    found = diagnose(replace(FAILED, refused=(REFUSED, REFUSED, *many)))
    assert found
    assert found.cause.count("10.0.0.9") == 1
    assert found.cause.endswith(" and 3 more were refused.")
    assert "WAGGLE_EGRESS_ALLOW_CIDRS" in found.next_step
    ports = diagnose(replace(FAILED, refused=many, name="box"))
    assert ports
    assert ports.cause == (
        "While it ran, h0.test:22, h1.test:22, h2.test:22 and 2 more were refused: port 22 is not "
        "open to guests."
    )
    assert "waggle env network box --allow h0.test:22 --allow h1.test:22" in ports.next_step


def test_a_program_that_hides_a_refusal_is_reported() -> None:
    ended = replace(FAILED, exit_code=0, refused=(REFUSED,))
    assert code(ended) == "network_refused"
    lacking = failed("sh: 1: ps: not found", frozenset(), command="ps", exit_code=0)
    found = diagnosis_of(replace(lacking, refused=(REFUSED,)))
    assert found.code == "command_not_found"
    assert found.cause.endswith("While it ran, 10.0.0.9:443 was refused: it is a private address.")


def test_a_refusal_is_reported_beside_another_cause_and_is_that_of_a_failed_build() -> None:
    killed = diagnosis_of(replace(FAILED, refused=(REFUSED,), record=RunFacts(oom_kills=1)))
    assert killed.code == "out_of_memory"
    assert "10.0.0.9:443 was refused" in killed.cause
    build = failed("error: subprocess-exited-with-error", refused=(REFUSED,))
    assert diagnosis_of(build).code == "network_refused"


def test_connections_without_a_route_are_diagnosed() -> None:
    assert code(FAILED, unrouted=2, unheard=1) == "no_direct_network"
    inside = diagnosis(replace(FAILED, network=NO_NETWORK), unrouted=1)
    assert inside
    assert "network 'public'" in inside.next_step


def test_a_missing_module_is_diagnosed_with_its_package() -> None:
    missing = replace(FAILED, missing=Module(RuntimeName.NODE, "left-pad"), refused=(REFUSED,))
    found = diagnose(missing)
    assert found
    assert found.code == "module_not_found"
    assert "The Node.js module left-pad" in found.cause
    assert "install_packages" in found.next_step
    inside = diagnose(replace(missing, network=NO_NETWORK))
    assert inside
    assert "install_packages" not in inside.next_step


@pytest.mark.parametrize(
    "cause, words",
    [
        ("QEMU was killed by SIGKILL", "for lack of memory"),
        ("libkrun was killed by SIGKILL", "for lack of memory"),
        ("[ 1.0] Kernel panic - not syncing: was killed by SIGKILL", "kernel give up"),
        ("the guest shut down", "shut the machine down"),
        ("the guest's kernel panicked or rebooted", "run less at once"),
        ("QEMU ended with status 3", "server's log"),
    ],
)
def test_a_machine_that_died(cause: str, words: str) -> None:
    found = machine_died(cause)
    assert (found.code, found.cause) == ("guest_lost", f"The machine died: {cause}.")
    assert words in found.next_step


counts = st.integers(0, 10**20 - 1)
spaces = st.none() | st.builds(Space, counts, counts)
records = st.builds(
    RunFacts,
    exit_code=st.none() | st.integers(0, 255),
    signal=st.none() | counts,
    exec_error=st.none() | st.integers(0, 200),
    file=st.text(),
    needs=st.text(),
    needs_carriage_return=st.booleans(),
    oom_kills=counts,
    memory_peak=counts,
    memory_limit=counts,
    memory_shared=counts,
    forks_refused=counts,
    process_limit=counts,
    disk=spaces,
    inodes=spaces,
    shm=spaces,
    unrouted=counts,
    unheard=counts,
    have=st.none() | st.frozensets(st.sampled_from([*TOOLS, "x y"])),
)
words = st.sampled_from(
    ["EADDRINUSE", "a: 1: ", "ps", ": not found", "\n", "libx.so.1", ": cannot open shared object ",
     "file", "EACCES", "E: Unable to locate package", "PKIX path building failed", "MemoryError",
     "fatal error: ", "x.h", ": No such file or directory", "gyp ERR! build", "port 9418", ":99999"]
)  # fmt: skip
everything = st.builds(
    Evidence,
    program=st.text(min_size=1),
    exit_code=st.none() | st.integers(0, 2**32),
    signal=st.none() | st.text(min_size=1, max_size=20),
    memory_mib=st.integers(128, 65_536),
    disk_mib=st.integers(1, 65_536),
    network=st.sampled_from([NO_NETWORK, PUBLIC_NETWORK, parse_network("ask, example.org")]),
    record=records,
    refused=st.lists(
        st.builds(
            Decision,
            st.text("ab:.?", max_size=253),
            st.integers(0, 65_535),
            st.sampled_from(["port", "no-rule", "rule", "private", "multicast"]),
            st.sampled_from(["x", "y"]),
        ),
        max_size=64,
    ).map(tuple),
    missing=st.none() | st.builds(Module, st.sampled_from(RuntimeName), st.text()),
    command=st.none() | st.text(min_size=1) | st.sampled_from(sorted(PACKAGE_OF)),
    said=st.lists(words | st.text(), max_size=9).map("".join),
    runtime=st.sampled_from(RuntimeName),
    user=st.sampled_from(GuestUser),
)


@given(everything)
def test_a_diagnosis_is_short_and_printable_for_any_evidence(evidence: Evidence) -> None:
    found = diagnose(evidence)
    if evidence.exit_code == 0:
        assert found is None or found.code in ("command_not_found", "network_refused")
    if found is not None:
        assert found.cause
        assert found.next_step
        assert found.text.isprintable()
        assert len(found.text) < 1_500
    name = missing_command(evidence.said)
    assert name is None or (name.isascii() and len(name) <= 64)

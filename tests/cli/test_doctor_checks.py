# SPDX-License-Identifier: Apache-2.0
"""The preflight checks, run against this host and against broken surroundings."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from waggle.domain.errors import SettingsInvalid
from waggle.domain.hypervisor import HypervisorName
from waggle.domain.machine import Capabilities
from waggle.infra.host import doctor, preflight
from waggle.infra.host.doctor import CHECKS, examine
from waggle.infra.host.hypervisors import Candidate, KvmFacts
from waggle.infra.host.preflight import CheckResult, Status, Subject, can_run

pytestmark = pytest.mark.anyio
KRUN, QEMU = HypervisorName.KRUN, HypervisorName.QEMU
OLD = "libkrun is too old: it has no krun_add_vsock."
MEND = "Use libkrun 1.17 or later."


def found(krun: str = "") -> dict[HypervisorName, Candidate]:
    """Return libkrun, with a problem if one is given, and QEMU."""
    able = Capabilities(freezes=True, stops_when_full=True)
    unable = Capabilities(freezes=False, stops_when_full=False)
    return {
        KRUN: Candidate(unable, needs_kvm=True, problem=krun, mend=MEND if krun else ""),
        QEMU: Candidate(able, needs_kvm=False),
    }


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    (tmp_path / "kernel").write_bytes(b"ELF")
    (tmp_path / "kit").write_bytes(b"EROFS")
    return Subject(
        data_dir=tmp_path,
        kernel=(tmp_path / "kernel",),
        kit=tmp_path / "kit",
        listen_port=0,
        images=lambda: {"python": True},
        kvm=lambda: KvmFacts("", cpu_virtualises=True),
        candidates=lambda: found(OLD),
    )


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        yield listener.getsockname()[1]


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


async def test_every_check_reports_under_its_own_name(subject: Subject) -> None:
    results = await examine(subject)
    assert [result.name for result in results] == list(CHECKS)
    for result in results:
        assert result.detail
        assert bool(result.mend) == (result.status is not Status.OK)


async def test_a_check_that_raises_fails_and_hides_no_other(subject: Subject) -> None:
    async def broken(_subject: Subject) -> CheckResult:
        raise ZeroDivisionError

    results = await examine(subject, {"broken": broken, "kernel": preflight.kernel})
    assert [result.status for result in results] == [Status.FAIL, Status.OK]
    assert not can_run(results)
    assert can_run(results[1:])


class TestQemu:
    async def test_a_missing_qemu_fails(self, subject: Subject) -> None:
        result = await doctor.qemu(replace(subject, qemu_binary="no-such-qemu"))
        assert result.status is Status.FAIL
        assert "waggle setup" in result.mend

    @pytest.mark.parametrize(
        "version,machines,status,word",
        [
            ("QEMU emulator version 7.2.9 (Debian)", "microvm  microvm", Status.OK, "7.2.9"),
            ("QEMU emulator version 10.0.2", "microvm  microvm", Status.OK, "10.0.2"),
            ("QEMU emulator version 6.2.0", "microvm  microvm", Status.FAIL, "too old"),
            ("QEMU emulator version 8.2.0", "pc  Standard PC", Status.FAIL, "no microvm"),
            ("something else", "microvm", Status.FAIL, "version"),
        ],
    )
    async def test_the_version_and_machines_of_qemu_are_checked(
        self, subject: Subject, version: str, machines: str, status: Status, word: str
    ) -> None:
        text = f'if [ "$1" = -version ]; then echo "{version}"; else echo "{machines}"; fi'
        binary = script(subject.data_dir / "qemu", text)
        result = await doctor.qemu(replace(subject, qemu_binary=binary))
        assert result.status is status
        assert word in result.detail


class TestAcceleration:
    async def test_usable_kvm_is_ok(self, subject: Subject) -> None:
        assert (await doctor.acceleration(subject)).status is Status.OK

    async def test_emulation_is_a_warning_unless_it_is_set(self, subject: Subject) -> None:
        emulated = replace(subject, kvm=lambda: KvmFacts("", cpu_virtualises=False))
        assert (await doctor.acceleration(emulated)).status is Status.WARN
        demanded = replace(emulated, accel="tcg")
        assert (await doctor.acceleration(demanded)).status is Status.OK

    async def test_kvm_that_is_set_and_missing_fails(self, subject: Subject) -> None:
        demanded = replace(subject, accel="kvm", kvm=lambda: KvmFacts("denied", True))
        result = await doctor.acceleration(demanded)
        assert result.status is Status.FAIL
        assert "group kvm" in result.mend


class TestLibkrun:
    async def test_a_usable_libkrun_is_ok(self, subject: Subject) -> None:
        result = await doctor.libkrun(replace(subject, candidates=found))
        assert (result.status, result.detail) == (Status.OK, "usable")

    @pytest.mark.parametrize("names", [(), (QEMU,)])
    async def test_an_unusable_libkrun_is_reported_as_ok(
        self, subject: Subject, names: tuple[HypervisorName, ...]
    ) -> None:
        result = await doctor.libkrun(replace(subject, hypervisor=names))
        assert (result.status, result.detail) == (Status.OK, f"not used: {OLD}")

    @pytest.mark.parametrize("names", [(KRUN,), (QEMU, KRUN)])
    async def test_a_libkrun_that_is_set_and_not_usable_fails(
        self, subject: Subject, names: tuple[HypervisorName, ...]
    ) -> None:
        result = await doctor.libkrun(replace(subject, hypervisor=names))
        assert (result.status, result.detail, result.mend) == (Status.FAIL, OLD, MEND)


class TestHypervisor:
    async def test_both_run_machines_and_each_says_what_it_can(self, subject: Subject) -> None:
        both = replace(subject, candidates=found, qemu_binary="no-such-qemu")
        result = await doctor.hypervisor(both)
        assert result.status is Status.OK
        assert result.detail.startswith("krun, qemu: krun can be used. ")
        assert "Machines of krun cannot be frozen" in result.detail
        assert "Machines of qemu can be frozen" in result.detail

    async def test_qemu_is_needed_wherever_it_is_in_the_list(self, subject: Subject) -> None:
        both = replace(subject, candidates=found, qemu_binary="no-such-qemu")
        assert (await doctor.qemu(both)).status is Status.FAIL
        alone = await doctor.qemu(replace(both, hypervisor=(KRUN,)))
        assert (alone.status, alone.detail) == (Status.OK, "not needed (not installed)")

    async def test_a_full_kernel_that_krun_lacks_decides(self, subject: Subject) -> None:
        def with_full() -> dict[HypervisorName, Candidate]:
            able = Capabilities(freezes=True, stops_when_full=True, containers=True)
            return {**found(), QEMU: Candidate(able, needs_kvm=False)}

        full = replace(subject, candidates=with_full, full_kernel=True)
        result = await doctor.hypervisor(full)
        assert result.detail.startswith("qemu, krun: WAGGLE_GUEST_KERNEL=full: first those whose")
        alone = await doctor.hypervisor(replace(full, hypervisor=(KRUN,)))
        assert alone.status is Status.FAIL
        assert "guests of krun have the small kernel only" in alone.detail
        assert "Add qemu to WAGGLE_HYPERVISOR" in alone.mend

    async def test_qemu_is_used_with_the_reason_against_krun(self, subject: Subject) -> None:
        old = await doctor.hypervisor(subject)
        assert old.detail.startswith(f"qemu: krun cannot be used: {OLD} qemu can be used.")
        emulated = replace(
            subject, candidates=found, kvm=lambda: KvmFacts("", cpu_virtualises=False)
        )
        result = await doctor.hypervisor(emulated)
        assert result.detail.startswith("qemu: krun needs KVM. /dev/kvm opens, but")

    @pytest.mark.parametrize("problem,word", [(OLD, "too old"), ("", "needs KVM")])
    async def test_an_unusable_krun_that_is_set_fails_and_needs_no_qemu(
        self, subject: Subject, problem: str, word: str
    ) -> None:
        demanded = replace(
            subject,
            hypervisor=(KRUN,),
            candidates=lambda: found(problem),
            kvm=lambda: KvmFacts("denied", cpu_virtualises=True),
            qemu_binary="no-such-qemu",
        )
        result = await doctor.hypervisor(demanded)
        assert result.status is Status.FAIL
        assert word in result.detail
        assert result.mend
        assert (await doctor.qemu(demanded)).status is Status.OK

    async def test_qemu_is_needed_if_kvm_is_set_and_missing(self, subject: Subject) -> None:
        demanded = replace(
            subject,
            accel="kvm",
            kvm=lambda: KvmFacts("denied", cpu_virtualises=True),
            qemu_binary="no-such-qemu",
        )
        assert (await doctor.hypervisor(demanded)).status is Status.FAIL
        assert (await doctor.qemu(demanded)).status is Status.FAIL


class TestFreezing:
    async def test_the_first_that_can_freeze_machines_is_named(self, subject: Subject) -> None:
        result = await doctor.freezing(subject)
        assert (result.name, result.status) == ("snapshots", Status.OK)
        assert result.detail.startswith("by qemu: templates, snapshots")
        second = await doctor.freezing(replace(subject, candidates=found))
        assert second.detail.startswith("by qemu, for environments created with snapshots=true: ")

    async def test_krun_alone_cannot_freeze_and_the_hint_names_a_way(
        self, subject: Subject
    ) -> None:
        krun = replace(subject, hypervisor=(KRUN,), candidates=found)
        result = await doctor.freezing(krun)
        assert result.status is Status.OK
        assert "krun cannot freeze" in result.detail
        assert "WAGGLE_HYPERVISOR, such as qemu" in result.detail

    async def test_a_missing_older_qemu_is_named(self, subject: Subject) -> None:
        older = replace(subject, hypervisor=(QEMU,), qemu_older=("sh", "/opt/old/qemu"))
        result = await doctor.freezing(older)
        assert result.status is Status.WARN
        assert result.detail.endswith("missing programs: /opt/old/qemu")
        assert result.mend


class TestMemory:
    async def test_too_little_memory_for_one_machine_fails(self, subject: Subject) -> None:
        result = await doctor.memory(replace(subject, memory_mib=10**9))
        assert result.status is Status.FAIL

    async def test_too_little_memory_for_all_machines_is_a_warning(self, subject: Subject) -> None:
        result = await doctor.memory(replace(subject, max_environments=10**9))
        assert result.status is Status.WARN
        assert "fit now" in result.mend


class TestPorts:
    async def test_a_full_port_range_fails(self, subject: Subject, taken_port: int) -> None:
        full = replace(subject, port_base=taken_port, port_max=taken_port + 1)
        result = await doctor.guest_ports(full)
        assert result.status is Status.FAIL
        assert "WAGGLE_SSH_PORT_BASE" in result.mend

    async def test_a_taken_listen_address(self, subject: Subject, taken_port: int) -> None:
        taken = replace(subject, listen_port=taken_port)
        assert (await doctor.listen_address(taken)).status is Status.FAIL
        running = replace(taken, server_is_running=True)
        assert (await doctor.listen_address(running)).status is Status.OK

    async def test_a_free_listen_address_stays_free(self, subject: Subject) -> None:
        assert (await doctor.listen_address(subject)).status is Status.OK

    async def test_many_environments_need_many_files(self, subject: Subject) -> None:
        result = await doctor.open_files(replace(subject, max_environments=10**9))
        assert result.status is Status.WARN
        assert "ulimit -Hn" in result.mend


class TestFiles:
    async def test_an_absent_or_empty_kernel_or_a_directory_fails(self, subject: Subject) -> None:
        (subject.data_dir / "empty").touch()
        for name in ("absent", "empty", "."):
            kernels = (*subject.kernel, subject.data_dir / name)
            result = await preflight.kernel(replace(subject, kernel=kernels))
            assert result.status is Status.FAIL
            assert str(subject.data_dir / name) in result.detail
            assert "waggle setup" in result.mend
        both = (*subject.kernel, subject.kit)
        result = await preflight.kernel(replace(subject, kernel=both))
        assert result.status is Status.OK
        assert all(str(path) in result.detail for path in both)

    async def test_some_missing_images_warn_and_all_missing_fail(self, subject: Subject) -> None:
        some = replace(subject, images=lambda: {"python": True, "node": False})
        result = await preflight.images(some)
        assert (result.status, result.mend) == (Status.WARN, "Run: waggle image build node")
        nothing = replace(subject, images=lambda: {"python": False, "node": False})
        assert (await preflight.images(nothing)).status is Status.FAIL

    async def test_an_outdated_image_is_reported_with_the_command(self, subject: Subject) -> None:
        old = replace(subject, outdated=lambda: ["python"])
        result = await preflight.images(old)
        assert (result.status, result.mend) == (Status.WARN, "Run: waggle image build python")
        assert "python" in result.detail
        both = replace(old, images=lambda: {"python": True, "node": False})
        result = await preflight.images(both)
        assert result.status is Status.WARN
        assert result.mend == "Run: waggle image build node; waggle image build python"

    async def test_a_data_directory_is_probed_without_being_made(self, subject: Subject) -> None:
        later = subject.data_dir / "a" / "b"
        result = await preflight.data_directory(replace(subject, data_dir=later))
        assert result.status in {Status.OK, Status.WARN}
        assert not later.parent.exists()

    async def test_a_data_directory_that_is_not_writable_fails(self, subject: Subject) -> None:
        result = await preflight.data_directory(replace(subject, data_dir=Path("/proc/waggle")))
        assert result.status is Status.FAIL

    async def test_unusable_ca_bundles_fail(self, subject: Subject, tmp_path: Path) -> None:
        assert (await doctor.ca_bundle(subject)).status is Status.OK
        (tmp_path / "bad.pem").write_text("not a certificate")
        for name in ("absent.pem", "bad.pem", "."):
            broken = replace(subject, ca_bundle=tmp_path / name)
            result = await doctor.ca_bundle(broken)
            assert result.status is Status.FAIL, name
            assert "WAGGLE_CA_BUNDLE" in result.mend

    async def test_network_rules_that_cannot_be_used_fail_with_the_place(
        self, subject: Subject
    ) -> None:
        def broken() -> int:
            raise SettingsInvalid("rules.git, entry 2: no rule.", hint="See network.md.")

        assert (await doctor.network_rules(subject)).status is Status.OK
        assert (
            "3 names"
            in (await doctor.network_rules(replace(subject, network_rules=lambda: 3))).detail
        )
        result = await doctor.network_rules(replace(subject, network_rules=broken))
        assert (result.status, result.mend) == (Status.FAIL, "See network.md.")
        assert "entry 2" in result.detail

    async def test_the_certificates_of_a_bundle_are_counted(
        self, subject: Subject, tmp_path: Path
    ) -> None:
        bundle = tmp_path / "ca.pem"
        bundle.write_bytes(certificate_authority())
        result = await doctor.ca_bundle(replace(subject, ca_bundle=bundle))
        assert result.status is Status.OK
        assert "1 certificates" in result.detail


def certificate_authority() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=key.public_key(),
        serial_number=1,
        not_valid_before=now,
        not_valid_after=now + timedelta(days=1),
    ).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)

# SPDX-License-Identifier: Apache-2.0
"""The tables of methods are those of the VMMs' OpenAPI documents and routes, and consistent."""

from __future__ import annotations

import re
from types import NoneType
from typing import Any

import pytest
from pydantic import BaseModel
from tests.support.vmm_samples import sample

from waggle.infra.vmm import cloud_hypervisor, firecracker
from waggle.infra.vmm.endpoint import Endpoint
from waggle.infra.vmm.fields import lacking
from waggle.infra.vmm.version import OLDEST, Version, Vmm

ALL = [*firecracker.ENDPOINTS, *cloud_hypervisor.ENDPOINTS]

FIRECRACKER = """
GET / describeInstance 1.10
PUT /actions createSyncAction 1.10
GET /balloon describeBalloonConfig 1.10
PUT /balloon putBalloon 1.10
PATCH /balloon patchBalloon 1.10
GET /balloon/statistics describeBalloonStats 1.10
PATCH /balloon/statistics patchBalloonStatsInterval 1.10
PATCH /balloon/hinting/start startBalloonHinting 1.14
GET /balloon/hinting/status describeBalloonHinting 1.14
PATCH /balloon/hinting/stop stopBalloonHinting 1.14
PUT /boot-source putGuestBootSource 1.10
PUT /cpu-config putCpuConfiguration 1.10
PUT /drives/{drive_id} putGuestDriveByID 1.10
PATCH /drives/{drive_id} patchGuestDriveByID 1.10
PUT /pmem/{id} putGuestPmemByID 1.14
PATCH /pmem/{id} patchGuestPmemByID 1.16
PUT /logger putLogger 1.10
GET /machine-config getMachineConfiguration 1.10
PUT /machine-config putMachineConfiguration 1.10
PATCH /machine-config patchMachineConfiguration 1.10
PUT /metrics putMetrics 1.10
PUT /mmds putMmds 1.10
PATCH /mmds patchMmds 1.10
GET /mmds getMmds 1.10
PUT /mmds/config putMmdsConfig 1.10
PUT /entropy putEntropyDevice 1.10
PUT /serial putSerialDevice 1.14
PUT /hotplug/memory putMemoryHotplug 1.14
PATCH /hotplug/memory patchMemoryHotplug 1.14
GET /hotplug/memory getMemoryHotplug 1.14
PUT /network-interfaces/{iface_id} putGuestNetworkInterfaceByID 1.10
PATCH /network-interfaces/{iface_id} patchGuestNetworkInterfaceByID 1.10
PUT /snapshot/create createSnapshot 1.10
PUT /snapshot/load loadSnapshot 1.10
GET /version getFirecrackerVersion 1.10
PATCH /vm patchVm 1.10
GET /vm/config getExportVmConfig 1.10
PUT /vsock putGuestVsock 1.10
"""
"""Verb, path, operation id and first version of each method in the document of 1.17."""
UNDOCUMENTED = """
DELETE /drives/{drive_id} deleteGuestDriveByID 1.16
DELETE /pmem/{id} deleteGuestPmemByID 1.16
DELETE /network-interfaces/{iface_id} deleteGuestNetworkInterfaceByID 1.16
"""
"""Those that Firecracker's parser has besides."""
CLOUD_HYPERVISOR = """
GET /vmm.ping 48
PUT /vmm.shutdown 48
GET /vm.info 48
GET /vm.counters 48
PUT /vm.create 48
PUT /vm.delete 48
PUT /vm.boot 48
PUT /vm.pause 48
PUT /vm.resume 48
PUT /vm.shutdown 48
PUT /vm.reboot 48
PUT /vm.power-button 48
PUT /vm.resize 48
PUT /vm.resize-disk 50
PUT /vm.resize-zone 48
PUT /vm.add-device 48
PUT /vm.remove-device 48
PUT /vm.add-disk 48
PUT /vm.add-fs 48
PUT /vm.add-generic-vhost-user 52
PUT /vm.add-pmem 48
PUT /vm.add-net 48
PUT /vm.add-vsock 48
PUT /vm.add-vdpa 48
PUT /vm.add-user-device 48
PUT /vm.snapshot 48
PUT /vm.coredump 48
PUT /vm.nmi 48
PUT /vm.restore 48
PUT /vm.receive-migration 48
PUT /vm.send-migration 48
"""
"""Verb, path and first version of each method in the document of 53, as the routes have them."""


def test_the_table_of_firecracker_is_complete() -> None:
    table = [
        f"{one.verb} {one.path} {one.name} {one.since.major}.{one.since.minor}"
        for one in firecracker.ENDPOINTS
    ]
    assert sorted(table) == sorted(
        (FIRECRACKER + UNDOCUMENTED).strip().replace("\n\n", "\n").split("\n")
    )


def test_the_table_of_cloud_hypervisor_is_complete() -> None:
    table = [
        f"{one.verb} {one.path.removeprefix('/api/v1')} {one.since.major}"
        for one in cloud_hypervisor.ENDPOINTS
    ]
    assert sorted(table) == sorted(CLOUD_HYPERVISOR.strip().split("\n"))
    assert all(one.path == f"/api/v1/{one.name}" for one in cloud_hypervisor.ENDPOINTS)


@pytest.mark.parametrize("module", [firecracker, cloud_hypervisor], ids=lambda m: m.__name__)
def test_constants_are_named_as_their_methods(module: Any) -> None:
    for endpoint in module.ENDPOINTS:
        words = re.sub(r"([a-z])([A-Z])", r"\1_\2", endpoint.name)
        assert getattr(module, re.sub(r"[.-]", "_", words).upper()) is endpoint


@pytest.mark.parametrize("endpoint", ALL, ids=lambda one: one.name)
def test_a_method_is_consistent(endpoint: Endpoint[Any, Any]) -> None:
    states = endpoint.legal.split(", ")
    assert set(states) <= {*firecracker.ALWAYS.split(", "), *cloud_hypervisor.ALWAYS.split(", ")}
    if endpoint.verb == "GET":
        assert endpoint.request is NoneType
        assert issubclass(endpoint.answer, BaseModel)
    assert endpoint.may_be_empty is ("vm.add-" in endpoint.path)
    assert endpoint.until is None
    assert endpoint.since >= min(OLDEST.values())
    for model in (endpoint.request, endpoint.answer):
        if model is not NoneType:
            body = sample(model)
            text = body.model_dump_json(by_alias=True)
            assert model.model_validate_json(text) == body


def test_texts_and_lists_of_answers_are_bounded() -> None:
    for endpoint in ALL:
        if endpoint.answer is NoneType:
            continue
        schema = endpoint.answer.model_json_schema()
        parts = [schema, *schema.get("$defs", {}).values()]
        for part in parts:
            for name, field in part.get("properties", {}).items():
                for kind in (field, *field.get("anyOf", [])):
                    text = kind.get("type") == "string" and "enum" not in kind
                    if text and "const" not in kind:
                        assert "maxLength" in kind, (endpoint.name, name)
                    if kind.get("type") == "array":
                        assert "maxItems" in kind, (endpoint.name, name)


def test_a_request_is_strict() -> None:
    for endpoint in ALL:
        if endpoint.request is NoneType or endpoint.name in {"putMmds", "patchMmds"}:
            continue
        with pytest.raises(ValueError, match=r"nonsense"):
            endpoint.request(nonsense=1)
    with pytest.raises(ValueError, match="vcpu_count"):
        firecracker.MachineConfiguration.model_validate({"vcpu_count": "1", "mem_size_mib": 64})
    with pytest.raises(ValueError, match="pattern"):
        firecracker.BootSource(kernel_image_path="/a\0b")
    with pytest.raises(ValueError, match="guest_cid"):
        firecracker.Vsock(guest_cid=2, uds_path="/v")


@pytest.mark.parametrize(
    "body,running,missing",
    [
        (
            firecracker.Balloon(amount_mib=1, deflate_on_oom=True, free_page_hinting=False),
            Version(1, 13, 2),
            [("free_page_hinting", Version(1, 14))],
        ),
        (
            firecracker.SnapshotLoadParams(snapshot_path="/s", network_overrides=[]),
            Version(1, 12),
            [],
        ),
        (
            firecracker.SnapshotLoadParams(snapshot_path="/s", network_overrides=[]),
            Version(1, 11),
            [("network_overrides", Version(1, 12))],
        ),
        (
            cloud_hypervisor.VmConfig(
                disks=[
                    cloud_hypervisor.DiskConfig(path="/a"),
                    cloud_hypervisor.DiskConfig(path="/a", sparse=True, image_type="Raw"),
                ],
                balloon=cloud_hypervisor.BalloonConfig(size=1, id="b"),
            ),
            Version(50, 0),
            [
                ("sparse", Version(51)),
                ("image_type", Version(50, 1)),
                ("id", Version(53)),
            ],
        ),
    ],
    ids=["one", "in-it", "before", "parts"],
)
def test_fields_that_a_version_lacks(
    body: BaseModel, running: Version, missing: list[tuple[str, Version]]
) -> None:
    assert list(lacking(body, running)) == missing
    assert not list(lacking(body, Version(99)))


def test_the_oldest_versions_begin_the_tables() -> None:
    assert min(one.since for one in firecracker.ENDPOINTS) == OLDEST[Vmm.FIRECRACKER]
    assert min(one.since for one in cloud_hypervisor.ENDPOINTS) == OLDEST[Vmm.CLOUD_HYPERVISOR]

# SPDX-License-Identifier: Apache-2.0
"""The client of a VMM that works: every method, versions, order, cancellation, the end."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import ModuleType, NoneType
from typing import Any, cast

import pytest
from pydantic import BaseModel
from tests.support.pretend_firecracker import pretending
from tests.support.vmm_samples import sample
from tests.support.vmm_server import Call, Reply, causes, fault, says, serving, speaking

from waggle.infra.vmm import cloud_hypervisor, firecracker
from waggle.infra.vmm.client import VmmClient
from waggle.infra.vmm.endpoint import Endpoint
from waggle.infra.vmm.errors import VmmError, VmmLacks, VmmRefused
from waggle.infra.vmm.version import OLDEST, Version, Vmm

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]
NEWEST = Version(99)
TABLES: list[tuple[Vmm, ModuleType]] = [
    (Vmm.FIRECRACKER, firecracker),
    (Vmm.CLOUD_HYPERVISOR, cloud_hypervisor),
]
both = pytest.mark.parametrize("vmm,module", TABLES, ids=[vmm.value for vmm, _ in TABLES])


def answer(call: Call) -> Reply:
    kind = call.endpoint.answer
    return Reply() if kind is NoneType else says(sample(kind))


def asked(endpoint: Endpoint[Any, Any]) -> Any:
    return None if endpoint.request is NoneType else sample(endpoint.request)


@both
async def test_every_method(vmm: Vmm, module: Any, tmp_path: Path) -> None:
    endpoints: tuple[Endpoint[Any, Any], ...] = module.ENDPOINTS
    async with serving(tmp_path, endpoints, answer) as server:
        client = VmmClient(server.dial, vmm, NEWEST)
        for endpoint in endpoints:
            item = "a1" if "{" in endpoint.path else ""
            request = asked(endpoint)
            got = cast("BaseModel | None", await client.call(endpoint, request, item=item))
            assert server.calls[-1] == Call(endpoint, item, request)
            assert (got is None) is (endpoint.answer is NoneType)
            assert got is None or got == sample(type(got))
        assert len(server.calls) == len(endpoints)


@both
async def test_what_a_version_lacks_is_not_sent(vmm: Vmm, module: Any, tmp_path: Path) -> None:
    running = OLDEST[vmm]
    async with serving(tmp_path, module.ENDPOINTS, answer) as server:
        client = VmmClient(server.dial, vmm, running)
        newer = [one for one in module.ENDPOINTS if one.since > running]
        assert newer
        for endpoint in newer:
            with pytest.raises(VmmLacks) as raised:
                await client.call(endpoint, asked(endpoint), item="a1")
            message = raised.value.message
            assert all(str(one) in message for one in (endpoint.name, endpoint.since, running))
            assert (raised.value.code, raised.value.call) == ("unsupported", endpoint.name)
        assert server.calls == []
        assert server.connections == 0


async def test_fields_that_a_version_lacks_are_not_sent(tmp_path: Path) -> None:
    async with pretending(tmp_path) as (_, server):
        client = VmmClient(server.dial, Vmm.FIRECRACKER, Version(1, 12, 1))
        balloon = firecracker.Balloon(amount_mib=0, deflate_on_oom=True, free_page_reporting=True)
        with pytest.raises(VmmLacks, match=r"free_page_reporting of putBalloon.* 1\.14\.0"):
            await client.call(firecracker.PUT_BALLOON, balloon)
        load = firecracker.SnapshotLoadParams(
            snapshot_path="/s", vsock_override=firecracker.VsockOverride(uds_path="/v")
        )
        with pytest.raises(VmmLacks, match=r"vsock_override of loadSnapshot.* 1\.16\.0"):
            await client.call(firecracker.LOAD_SNAPSHOT, load)
        assert server.connections == 0


async def test_a_method_that_has_ended(tmp_path: Path) -> None:
    old = Endpoint("old", "GET", "/", NoneType, NoneType, "", Version(1), until=Version(2))
    async with serving(tmp_path, (old,), lambda _: Reply()) as server:
        await VmmClient(server.dial, Vmm.FIRECRACKER, Version(1, 9)).call(old)
        with pytest.raises(VmmLacks, match=r"has not old any more: that ended with 2\.0\.0"):
            await VmmClient(server.dial, Vmm.FIRECRACKER, Version(2)).call(old)


async def test_only_what_is_set_is_sent_and_null_only_in_data(tmp_path: Path) -> None:
    sent: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        sent.append(await reader.readexactly(length))
        writer.write(b"HTTP/1.1 204 \r\n\r\n")

    async with speaking(tmp_path, script) as dial:
        client = VmmClient(dial, Vmm.FIRECRACKER, Version(1, 12, 1))
        drive = firecracker.Drive(
            drive_id="kit", is_root_device=False, is_read_only=True, path_on_host="/kit"
        )
        await client.call(firecracker.PUT_GUEST_DRIVE_BY_ID, drive)
        contents = firecracker.MmdsContentsObject({"gone": None})
        await client.call(firecracker.PATCH_MMDS, contents)
    assert [json.loads(one) for one in sent] == [
        {"drive_id": "kit", "is_root_device": False, "is_read_only": True, "path_on_host": "/kit"},
        {"gone": None},
    ]


async def test_the_item_of_a_path(tmp_path: Path) -> None:
    async with serving(tmp_path, firecracker.ENDPOINTS, answer) as server:
        client = VmmClient(server.dial, Vmm.FIRECRACKER, NEWEST)
        drive = firecracker.Drive(drive_id="disk_1", is_root_device=False)
        await client.call(firecracker.PUT_GUEST_DRIVE_BY_ID, drive)
        await client.call(firecracker.DELETE_GUEST_DRIVE_BY_ID, item="disk_2")
        assert [call.item for call in server.calls] == ["disk_1", "disk_2"]
        for item in ("", "a/b", "..", "a b", "a%2f", "a\r\nX: y", "x" * 65, "é"):
            with pytest.raises(ValueError, match="needs a drive_id"):
                await client.call(firecracker.DELETE_GUEST_DRIVE_BY_ID, item=item)
        with pytest.raises(ValueError, match="names no item"):
            await client.call(firecracker.DESCRIBE_INSTANCE, item="a")
        with pytest.raises(TypeError, match="putGuestVsock takes Vsock"):
            await client.call(firecracker.PUT_GUEST_VSOCK, cast("Any", drive))
        assert len(server.calls) == 2


async def test_a_device_that_is_added_before_the_start_has_no_place(tmp_path: Path) -> None:
    async with serving(tmp_path, cloud_hypervisor.ENDPOINTS, lambda _: Reply()) as server:
        client = VmmClient(server.dial, Vmm.CLOUD_HYPERVISOR, NEWEST)
        disk = cloud_hypervisor.DiskConfig(path="/disk")
        assert await client.call(cloud_hypervisor.VM_ADD_DISK, disk) is None


async def test_a_whole_life(tmp_path: Path) -> None:
    snapshot = firecracker.SnapshotCreateParams(
        snapshot_path=str(tmp_path / "state"), mem_file_path=str(tmp_path / "memory")
    )
    backend = firecracker.MemoryBackend(backend_type="File", backend_path=str(tmp_path / "memory"))
    load = firecracker.SnapshotLoadParams(
        snapshot_path=str(tmp_path / "state"), mem_backend=backend, resume_vm=True
    )
    kernel = firecracker.BootSource(kernel_image_path="/kernel")
    start = firecracker.InstanceActionInfo(action_type="InstanceStart")
    async with pretending(tmp_path) as (vm, server):
        client = VmmClient(server.dial, Vmm.FIRECRACKER, vm.version)
        with pytest.raises(VmmRefused, match="without kernel configuration"):
            await client.call(firecracker.CREATE_SYNC_ACTION, start)
        await client.call(firecracker.PUT_GUEST_BOOT_SOURCE, kernel)
        await client.call(firecracker.CREATE_SYNC_ACTION, start)
        with pytest.raises(VmmRefused, match="not supported after starting"):
            await client.call(firecracker.PUT_GUEST_BOOT_SOURCE, kernel)
        with pytest.raises(VmmRefused, match="save/restore unavailable while running"):
            await client.call(firecracker.CREATE_SNAPSHOT, snapshot)
        await client.call(firecracker.PATCH_VM, firecracker.Vm(state="Paused"))
        await client.call(firecracker.CREATE_SNAPSHOT, snapshot)
        assert (await client.call(firecracker.DESCRIBE_INSTANCE)).state == "Paused"
        assert "createSnapshot" in server.names
    async with pretending(tmp_path) as (vm, server):
        client = VmmClient(server.dial, Vmm.FIRECRACKER, vm.version)
        with pytest.raises(VmmRefused, match="not supported before starting"):
            await client.call(firecracker.PATCH_VM, firecracker.Vm(state="Resumed"))
        await client.call(firecracker.LOAD_SNAPSHOT, load)
        assert vm.state == "Running"


@pytest.mark.parametrize(
    "reply,status,reason",
    [
        (fault("Drive config error: no."), 400, "Drive config error: no"),
        (fault("too large", 413), 413, "too large"),
        (causes("Error from API", "The VM could not boot", "no.", status=404), 404,
         "Error from API: The VM could not boot: no"),
        (Reply(500, b"plain text"), 500, "plain text"),
        (Reply(500), 500, "it gives no reason"),
        (Reply(429, b'{"fault_message": 5}'), 429, '{"fault_message": 5}'),
    ],
)  # fmt: skip
async def test_a_refusal_names_call_status_and_reason(
    reply: Reply, status: int, reason: str, tmp_path: Path
) -> None:
    async with serving(tmp_path, firecracker.ENDPOINTS, lambda _: reply) as server:
        client = VmmClient(server.dial, Vmm.FIRECRACKER, NEWEST)
        with pytest.raises(VmmRefused) as raised:
            await client.call(firecracker.DESCRIBE_INSTANCE)
    error = raised.value
    assert isinstance(error, VmmError)
    assert error.message == f"Firecracker refused describeInstance (HTTP {status}): {reason}."
    assert (error.call, error.status) == ("describeInstance", status)
    assert error.reason.rstrip(".") == reason

# SPDX-License-Identifier: Apache-2.0
"""Real VMMs know every method of the tables, and every field, in the states that these name.

Each method is sent with all its fields to a program that has no VM yet: whatever it says, it is not
that it knows no such method or field. No VM starts, so this needs no KVM for Firecracker.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from types import NoneType
from typing import Any

import pytest
from pydantic import BaseModel
from tests.support.firecracker import FIRECRACKER, VERSION, programs
from tests.support.leaks import Leaks
from tests.support.vmm_samples import assert_within, sample
from tests.support.vmm_server import dialer
from tests.support.waiting import until

from waggle.infra.vmm import cloud_hypervisor, firecracker
from waggle.infra.vmm.client import Dial, VmmClient
from waggle.infra.vmm.endpoint import Endpoint
from waggle.infra.vmm.errors import VmmLacks, VmmRefused
from waggle.infra.vmm.fields import lacking
from waggle.infra.vmm.version import Version, Vmm

pytestmark = pytest.mark.anyio
API = "api.sock"
ELSEWHERE = {"reg_modifiers", "vcpu_features", "igvm", "host_data", "tdx", "sev_snp"}
"""Fields that only aarch64 has, or programs that are built for special guests."""
ALONE = {"mem_file_path", "socket", "serial_number", "uuid"}
"""Fields that others exclude."""
CLOUD_HYPERVISOR = "WAGGLE_TEST_CLOUD_HYPERVISOR"
HANGS = "vm.receive-migration"
PANICS = "vm.send-migration"
"""Before 53 it ends if there is no VM."""
LAST = {"vm.create", "vmm.shutdown"}
ANY = Version(99)
"""Newer than all that there are."""


@pytest.fixture(scope="module")
def real() -> Path:
    return programs() / FIRECRACKER


@asynccontextmanager
async def started(*argv: str | Path, directory: Path) -> AsyncGenerator[Dial]:
    """Run a VMM, as this user, since nobody may not use KVM everywhere; yield its API."""
    leaks = Leaks()
    process = await asyncio.create_subprocess_exec(
        *argv, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        await until((directory / API).is_socket)
        yield dialer(directory / API)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    await leaks.settle()


def whole(endpoint: Endpoint[Any, Any], version: Version) -> BaseModel | None:
    """Return a request with all the fields that a version has."""
    if endpoint.request is NoneType:
        return None
    return _known(sample(endpoint.request), version)


def _known(body: BaseModel, version: Version) -> BaseModel:
    kept: dict[str, Any] = {}
    for name, info in type(body).model_fields.items():
        value = getattr(body, name)
        is_newer = any(isinstance(one, Version) and one > version for one in info.metadata)
        if is_newer or name in ELSEWHERE | ALONE:
            kept[name] = None if not info.is_required() else value
        elif isinstance(value, BaseModel):
            kept[name] = _known(value, version)
        elif isinstance(value, list) and isinstance(value[0], BaseModel):
            kept[name] = [_known(value[0], version)]
    return body.model_copy(update=kept)


async def reason(client: VmmClient, endpoint: Endpoint[Any, Any]) -> str | None:
    """Return why a method is refused, "" where it is not, None where the version lacks it."""
    item = "a1" if "{" in endpoint.path else ""
    try:
        await client.call(endpoint, whole(endpoint, client.version), item=item)
    except VmmLacks:
        return None
    except VmmRefused as error:
        return error.reason
    return ""


@pytest.mark.net
async def test_a_real_firecracker_knows_the_table(real: Path, tmp_path: Path) -> None:
    version = Version.parse(VERSION)
    async with started(real, "--api-sock", API, directory=tmp_path) as dial:
        client = VmmClient(dial, Vmm.FIRECRACKER, version)
        for endpoint in firecracker.ENDPOINTS:
            said = await reason(client, endpoint)
            assert (said is None) is (endpoint.since > version)
            if said is None:
                continue
            for unknown in ("Invalid request method", "deserializing", "Unrecognized"):
                assert unknown not in said, endpoint.name
            if endpoint is not firecracker.CREATE_SYNC_ACTION:
                is_early = "not supported before starting" in said
                assert is_early is (firecracker.BEFORE not in endpoint.legal), endpoint.name
        assert (await client.call(firecracker.DESCRIBE_INSTANCE)).vmm_version == VERSION


def unbound(dial: Dial) -> VmmClient:
    """Return a client that sends what any version has."""
    return VmmClient(dial, Vmm.CLOUD_HYPERVISOR, ANY)


async def cloud_hypervisor_at(dial: Dial) -> VmmClient:
    """Return a client of the version that it says it is."""
    version = Version.parse((await unbound(dial).call(cloud_hypervisor.VMM_PING)).version)
    return VmmClient(dial, Vmm.CLOUD_HYPERVISOR, version)


async def test_a_real_cloud_hypervisor_knows_the_table(tmp_path: Path) -> None:
    if not (program := os.environ.get(CLOUD_HYPERVISOR)):
        pytest.skip(f"{CLOUD_HYPERVISOR} names no program: its API was tested as recorded only")
    async with started(program, "--api-socket", f"path={API}", directory=tmp_path) as dial:
        client = await cloud_hypervisor_at(dial)
        version = client.version
        left_out = {HANGS, *LAST, *({PANICS} if version < Version(53) else ())}
        table = [one for one in cloud_hypervisor.ENDPOINTS if one.name not in left_out]
        last = [one for one in cloud_hypervisor.ENDPOINTS if one.name in LAST]
        for endpoint in [*table, *sorted(last, key=lambda one: one.name)]:
            said = await reason(client, endpoint)
            assert (said is None) is (endpoint.since > version)
            assert said != "Not Found" or endpoint is cloud_hypervisor.VM_COREDUMP
            assert "deserialize" not in (said or ""), endpoint.name
            assert said != "" or cloud_hypervisor.NONE in endpoint.legal, endpoint.name


async def test_a_real_cloud_hypervisor_keeps_every_field(tmp_path: Path) -> None:
    """It ignores fields that it does not know, so what it shows tells whether it knows them."""
    if not (program := os.environ.get(CLOUD_HYPERVISOR)):
        pytest.skip(f"{CLOUD_HYPERVISOR} names no program: its API was tested as recorded only")
    async with started(program, "--api-socket", f"path={API}", directory=tmp_path) as dial:
        client = await cloud_hypervisor_at(dial)
        config = whole(cloud_hypervisor.VM_CREATE, client.version)
        assert isinstance(config, cloud_hypervisor.VmConfig)
        config = config.model_copy(update={"landlock_enable": False})  # its paths do not exist
        await client.call(cloud_hypervisor.VM_CREATE, config)
        kept = (await client.call(cloud_hypervisor.VM_INFO)).config
        assert kept is not None
        assert_within(config.model_dump(exclude_none=True), kept.model_dump(exclude_none=True))


async def test_a_real_cloud_hypervisor_has_nothing_of_newer_versions(tmp_path: Path) -> None:
    """What is said to be newer than it is would not be sent to one that knows it."""
    if not (program := os.environ.get(CLOUD_HYPERVISOR)):
        pytest.skip(f"{CLOUD_HYPERVISOR} names no program: its API was tested as recorded only")
    async with started(program, "--api-socket", f"path={API}", directory=tmp_path) as dial:
        version = (await cloud_hypervisor_at(dial)).version
        client = unbound(dial)
        for endpoint in cloud_hypervisor.ENDPOINTS:
            if endpoint.since > version:
                assert await reason(client, endpoint) == "Not Found", endpoint.name
        config = whole(cloud_hypervisor.VM_CREATE, ANY)
        assert isinstance(config, cloud_hypervisor.VmConfig)
        config = config.model_copy(update={"landlock_enable": False})  # its paths do not exist
        await client.call(cloud_hypervisor.VM_CREATE, config)
        kept = (await client.call(cloud_hypervisor.VM_INFO)).config
        assert kept is not None
        assert [*lacking(kept, version)] == []

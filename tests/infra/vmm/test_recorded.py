# SPDX-License-Identifier: Apache-2.0
"""What real VMMs answered, in every state, replayed: requests fit the models, and answers as well.

The files in `recorded` hold one exchange a line, in the order in which they took place; a status of
null stands for a VMM that had ended.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType, NoneType
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel
from tests.support.pretend_firecracker import WORDS, pretending
from tests.support.vmm_samples import assert_within
from tests.support.vmm_server import Call, Reply, read, serving

from waggle.infra.vmm import cloud_hypervisor, firecracker
from waggle.infra.vmm.client import VmmClient
from waggle.infra.vmm.errors import VmmRefused
from waggle.infra.vmm.fields import lacking
from waggle.infra.vmm.version import Version, Vmm

pytestmark = pytest.mark.anyio
RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.json"))
MODULES: dict[Vmm, ModuleType] = {
    Vmm.FIRECRACKER: firecracker,
    Vmm.CLOUD_HYPERVISOR: cloud_hypervisor,
}


class Exchange(NamedTuple):
    verb: str
    path: str
    request: dict[str, Any] | None
    status: int | None
    body: str

    def asked(self) -> bytes:
        return b"" if self.request is None else json.dumps(self.request).encode()

    def is_of(self, endpoints: tuple[Any, ...]) -> bool:
        """Whether it was not made to be refused for its path or body."""
        try:
            read(endpoints, self.verb, self.path, self.asked())
        except ValueError:
            return False
        return True


class Recording(NamedTuple):
    vmm: Vmm
    version: Version
    exchanges: list[Exchange]


def load(path: Path) -> Recording:
    data = json.loads(path.read_text())
    exchanges = [Exchange(**one) for one in data["exchanges"]]
    return Recording(Vmm(data["vmm"]), Version.parse(data["version"]), exchanges)


recordings = pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)


@recordings
@pytest.mark.usefixtures("nothing_left")
async def test_recorded_answers(path: Path, tmp_path: Path) -> None:
    recording = load(path)
    endpoints = MODULES[recording.vmm].__dict__["ENDPOINTS"]
    now: list[Exchange] = []

    def respond(_call: Call) -> Reply:
        assert now[-1].status is not None
        return Reply(now[-1].status, now[-1].body.encode())

    async with serving(tmp_path, endpoints, respond) as server:
        client = VmmClient(server.dial, recording.vmm, recording.version)
        for exchange in recording.exchanges:
            if exchange.status is None or not exchange.is_of(endpoints):
                assert exchange.status is None or exchange.status >= 400
                continue
            now.append(exchange)
            call = read(endpoints, exchange.verb, exchange.path, exchange.asked())
            if is_newer(call, recording.version):
                assert exchange.status == 400
            elif exchange.status >= 400:
                with pytest.raises(VmmRefused) as raised:
                    await client.call(call.endpoint, call.request, item=call.item)
                check_refusal(recording.vmm, exchange, raised.value)
            else:
                answer = await client.call(call.endpoint, call.request, item=call.item)
                check_answer(exchange, call, answer)


def is_newer(call: Call, version: Version) -> bool:
    fields = [] if call.request is None else [*lacking(call.request, version)]
    return call.endpoint.since > version or bool(fields)


def check_refusal(vmm: Vmm, exchange: Exchange, error: VmmRefused) -> None:
    assert error.status == exchange.status
    said = json.loads(exchange.body)
    words = [said["fault_message"]] if vmm is Vmm.FIRECRACKER else said
    for word in words:
        assert " ".join(word.split()).rstrip(".")[:100] in error.reason


def check_answer(exchange: Exchange, call: Call, answer: BaseModel | None) -> None:
    if call.endpoint.answer is NoneType or not exchange.body:
        assert answer is None
        return
    assert answer is not None
    said = json.loads(exchange.body)
    kept = answer.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert_within(kept, said)


@recordings
def test_recordings_are_of_every_state(path: Path) -> None:
    recording = load(path)
    said = " ".join(one.body for one in recording.exchanges)
    states = set(re.findall(r'"state":"([\w ]+)"', said))
    assert states >= (
        {"Not started", "Running", "Paused"}
        if recording.vmm is Vmm.FIRECRACKER
        else {"Created", "Running", "Paused"}
    )


@recordings
def test_what_was_legal_was_so_in_a_state_that_the_table_names(path: Path) -> None:
    """Follow the states of the recorded VM: a success has to be legal in the table."""
    recording = load(path)
    endpoints = MODULES[recording.vmm].__dict__["ENDPOINTS"]
    state = start = "Not started" if recording.vmm is Vmm.FIRECRACKER else "Not created"
    for exchange in recording.exchanges:
        if exchange.status is None:
            state = start
        if exchange.status is None or exchange.status >= 400 or not exchange.is_of(endpoints):
            continue
        call = read(endpoints, exchange.verb, exchange.path, exchange.asked())
        if call.endpoint.name == "loadSnapshot":
            state = start  # each is of a new process
        assert state in call.endpoint.legal.split(", "), (call.endpoint.name, state)
        state = after(call, state)
        if found := re.search(r'"state":"([\w ]+)"', exchange.body):
            assert found[1] == state


def after(call: Call, state: str) -> str:
    """Return the state after a successful call."""
    match call.request:
        case firecracker.InstanceActionInfo(action_type="InstanceStart"):
            return "Running"
        case firecracker.Vm(state=wanted):
            return {"Paused": "Paused", "Resumed": "Running"}[wanted]
        case firecracker.SnapshotLoadParams(resume_vm=resume):
            return "Running" if resume else "Paused"
        case _:
            return {
                "vm.create": "Created",
                "vm.boot": "Running",
                "vm.pause": "Paused",
                "vm.resume": "Running",
                "vm.shutdown": "Created",
                "vm.delete": "Not created",
                "vmm.shutdown": "Not created",
            }.get(call.endpoint.name, state)


async def test_a_pretended_firecracker_refuses_as_the_real_one(tmp_path: Path) -> None:
    """It is asked what the recorded one was, up to its end, without requests that are bad."""
    (path,) = (one for one in RECORDED if one.stem.startswith("firecracker"))
    compared: set[str] = set()
    async with pretending(tmp_path) as (_, server):
        client = VmmClient(server.dial, Vmm.FIRECRACKER, Version(1, 12, 1))
        for exchange in load(path).exchanges:
            said = json.loads(exchange.body).get("fault_message", "") if exchange.body else ""
            if exchange.status is None or '"/run/flipped"' in json.dumps(exchange.request):
                break
            if (said and said not in WORDS) or exchange.verb == "GET":
                continue
            body = exchange.asked().replace(b'"/run/', b'"%s/' % bytes(tmp_path))
            call = read(firecracker.ENDPOINTS, exchange.verb, exchange.path, body)
            try:
                await client.call(call.endpoint, call.request, item=call.item)
                reason = ""
            except VmmRefused as error:
                reason = error.reason
            assert reason == said, exchange
            compared.add(said)
    assert compared == {"", *WORDS}

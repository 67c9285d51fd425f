# SPDX-License-Identifier: Apache-2.0
"""Versions, reasons and answers from any text: nothing but the errors that are promised."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.vmm_samples import sample
from tests.support.vmm_server import heard, speaking

from waggle.infra.vmm import cloud_hypervisor, firecracker
from waggle.infra.vmm.client import VmmClient
from waggle.infra.vmm.errors import MAX_REASON, VmmError, reason_of
from waggle.infra.vmm.version import Version, Vmm

NUMBERS = st.integers(0, 999_999)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.text() | st.from_regex(r"\s*v?[0-9.+-]{1,20}\w*\s*"))
def test_a_version_is_read_or_refused(text: str) -> None:
    try:
        version = Version.parse(text)
    except ValueError:
        return
    assert Version.parse(str(version)) == version
    assert str(version).count(".") == 2


@given(NUMBERS, NUMBERS, NUMBERS)
def test_versions_are_ordered_by_number(major: int, minor: int, patch: int) -> None:
    version = Version.parse(f"v{major}.{minor}.{patch}-dev\n")
    assert (version.major, version.minor, version.patch) == (major, minor, patch)
    assert version < Version(major, minor, patch + 1) < Version(major, minor + 1)
    assert Version.parse(f"{major}.{minor}") <= version < Version(major + 1)


@pytest.mark.parametrize(
    "text",
    [
        "", "1", "1.", "1.2.3.4", "1.-2", "1.2 3", "1,2", "\u0661.\u0662", "1.2.3/../4", "1.2\0",
        "x1.2", "1." + "9" * 7, "1.2-" + "a" * 65, "1.2\n3.4", "1" * 1000,
    ],
)  # fmt: skip
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(ValueError, match="this is no version"):
        Version.parse(text)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_a_reason_is_one_clean_line(body: bytes) -> None:
    reason = reason_of(body)
    assert 0 < len(reason) <= MAX_REASON
    assert reason.isprintable()


@given(st.text(min_size=1).filter(lambda text: text.isprintable() and text.strip()))
def test_a_reason_is_the_vmms(text: str) -> None:
    said = " ".join(text.split())[:MAX_REASON]
    assert reason_of(json.dumps({"fault_message": text}).encode()) == said
    if said.strip("."):
        assert reason_of(json.dumps([text]).encode()) == said.rstrip(".")


@pytest.mark.parametrize(
    "body,reason",
    [
        (b'{"fault_message":"It\\u001b[2J is\\nso."}', "It?[2J is so."),
        (b'{ "error": "too large.\nAll are dropped." }', "too large. All are dropped."),
        (b'["Error from API","It could not boot","a."]', "Error from API: It could not boot: a"),
        (b'["one", 2, null, ["three"], "four"]', "one: four"),
        (b"[1, 2]", "[1, 2]"),
        (b"[" + b'"a",' * 300 + b'"a"]', ('["' + 'a","' * 200)[:MAX_REASON].replace('","', '","')),
        (b"", "it gives no reason"),
        (b" \r\n\t", "it gives no reason"),
        (b'{"fault_message":""}', "it gives no reason"),
    ],
)  # fmt: skip
def test_reasons(body: bytes, reason: str) -> None:
    assert reason_of(body) == reason


VMM_INFO = json.loads(sample(cloud_hypervisor.VmInfo).model_dump_json())
CONFIG = json.loads(sample(firecracker.FullVmConfiguration).model_dump_json(by_alias=True))


@st.composite
def changed(draw: st.DrawFn, value: object) -> object:
    """Draw `value` with one part of it replaced or removed."""
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        members = cast("dict[str, object]", value)
        name = draw(st.sampled_from(sorted(members)))
        if not draw(st.integers(0, 9)):
            return {key: one for key, one in members.items() if key != name}
        return {**members, name: draw(changed(members[name]))}
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        first, *others = cast("list[object]", value)
        return [draw(changed(first)), *others]
    return draw(JSON)


@pytest.mark.parametrize(
    "vmm,endpoint,whole",
    [
        (Vmm.FIRECRACKER, firecracker.GET_EXPORT_VM_CONFIG, CONFIG),
        (Vmm.CLOUD_HYPERVISOR, cloud_hypervisor.VM_INFO, VMM_INFO),
    ],
    ids=["firecracker", "cloud-hypervisor"],
)
def test_answers_that_differ(vmm: Vmm, endpoint: Any, whole: Any) -> None:
    bodies: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        body = bodies[-1]
        writer.write(b"HTTP/1.1 200 \r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    async def ask(client: VmmClient, body: bytes) -> None:
        bodies.append(body)
        with contextlib.suppress(VmmError):
            answer = await client.call(endpoint)
            assert type(answer) is endpoint.answer

    with tempfile.TemporaryDirectory() as directory, asyncio.Runner() as runner:
        served = speaking(Path(directory), script)
        dial = runner.run(served.__aenter__())
        client = VmmClient(dial, vmm, Version(99))

        @given(changed(whole).map(lambda value: json.dumps(value).encode()))
        def attempt(body: bytes) -> None:
            runner.run(ask(client, body))

        attempt()
        runner.run(served.__aexit__(None, None, None))


NEWER = [
    {"state": "Hibernating"},
    {"more": {"a": [1]}},
    {"config": {**VMM_INFO["config"], "console": {"mode": "Hologram"}}},
    {"config": {**VMM_INFO["config"], "memory": {"size": "4 GiB"}, "more": 1}},
    {"config": None},
]


@pytest.mark.anyio
@pytest.mark.parametrize("newer", NEWER, ids=[json.dumps(one)[:20] for one in NEWER])
async def test_what_a_newer_cloud_hypervisor_says_besides_is_no_error(
    tmp_path: Path, newer: dict[str, object]
) -> None:
    """The machine is asked only whether it is paused."""
    body = json.dumps({**VMM_INFO, "state": "Paused", **newer}).encode()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        writer.write(b"HTTP/1.1 200 \r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    async with speaking(tmp_path, script) as dial:
        client = VmmClient(dial, Vmm.CLOUD_HYPERVISOR, Version(99))
        info = await client.call(cloud_hypervisor.VM_INFO)
    assert info.state == newer.get("state", "Paused")
    assert (info.config is None) == ("config" in newer)

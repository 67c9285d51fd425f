# SPDX-License-Identifier: Apache-2.0
"""A registry that breaks, lies or redirects causes a clear error and leaves nothing half-made."""

from __future__ import annotations

import asyncio
import email.utils
import gc
import json
from collections.abc import Sequence

import pytest
from tests.infra.oci.registry.world import World, quiet
from tests.support.fault_proxy import (
    Fault,
    FaultProxy,
    adds,
    claims_length,
    endless,
    flip,
    in_turn,
    pass_on,
    says,
    silence,
    stall,
    truncate,
    without_range,
)
from tests.support.waiting import cancelled, until

from waggle.domain.errors import (
    ImageCorrupt,
    ImageMissing,
    ImageUnavailable,
    RegistryBusy,
    WaggleError,
)
from waggle.domain.reference import ImageReference, parse_reference
from waggle.infra.oci.registry.options import RegistryOptions

pytestmark = pytest.mark.anyio

ZEROS = "sha256:" + "0" * 64
LAYER = "GET .*/blobs/"


PATIENT = 60.0
"""The timeout in seconds where nothing stalls. On a busy host a valid answer may take longer than a
short timeout, and the repeated request would get the fault that was meant for the next one."""
BRIEF = 2.0
"""The timeout in seconds where something stalls but valid answers must still arrive in time."""
SHORT = 0.3
"""The timeout in seconds where any answer may time out."""


def options(
    proxy: FaultProxy, attempts: int = 5, parallel: int = 1, stall: float = PATIENT
) -> RegistryOptions:
    return RegistryOptions(
        insecure=frozenset({proxy.name}),
        stall_timeout=stall,
        attempts=attempts,
        parallel=parallel,
    )


def named(proxy: FaultProxy, rest: str = "app:v1") -> ImageReference:
    return parse_reference(f"{proxy.name}/{rest}")


def after_config(fault: Fault) -> Fault:
    """Apply `fault` to all blobs but the first, which is the configuration."""
    return in_turn([pass_on, fault])


async def refused(
    world: World, proxy: FaultProxy, reference: ImageReference, stall: float = PATIENT
) -> WaggleError:
    with pytest.raises(WaggleError) as caught:
        await world.puller(options(proxy, 3, 3, stall)).pull(reference, quiet)
    assert world.is_clean()
    assert caught.value.message
    return caught.value


LASTING: list[tuple[str, Fault, type[WaggleError]]] = [
    (LAYER, after_config(truncate(1000)), RegistryBusy),
    (LAYER, after_config(flip), ImageCorrupt),
    (LAYER, after_config(endless), ImageCorrupt),
    (LAYER, after_config(says(200, body=b"short")), RegistryBusy),
    (LAYER, after_config(says(200, body=b"x" * 500_000)), ImageCorrupt),
    (LAYER, after_config(claims_length(1 << 40)), ImageCorrupt),
    (LAYER, after_config(claims_length(10)), RegistryBusy),
    (LAYER, after_config(says(500)), RegistryBusy),
    (LAYER, after_config(says(429, {"Retry-After": "7"})), RegistryBusy),
    (LAYER, after_config(says(404)), ImageMissing),
    (LAYER, after_config(says(403)), ImageUnavailable),
    (LAYER, after_config(says(204)), ImageUnavailable),
    (LAYER, flip, ImageCorrupt),
    (LAYER, endless, ImageCorrupt),
    (LAYER, truncate(5), RegistryBusy),
    ("/manifests/", endless, ImageCorrupt),
    ("/manifests/", flip, ImageCorrupt),
    ("/manifests/", truncate(20), RegistryBusy),
    ("/manifests/", adds({"Docker-Content-Digest": ZEROS}), ImageCorrupt),
    ("/manifests/", says(200, body=b"<html>log in to the wifi</html>"), ImageCorrupt),
    ("/manifests/", says(200, {"Content-Type": "text/html"}, b"{}"), ImageCorrupt),
    ("/manifests/", says(401), ImageUnavailable),
    ("/manifests/", says(401, {"WWW-Authenticate": "Negotiate"}), ImageUnavailable),
    ("/manifests/", says(503, {"Retry-After": "99999999"}), RegistryBusy),
    ("/manifests/", says(302, {"Location": "/v2/app/manifests/v1"}), ImageUnavailable),
    ("/manifests/", says(302, {"Location": "http://elsewhere.example/x"}), ImageUnavailable),
    ("/manifests/", says(302, {"Location": "file:///etc/passwd"}), ImageUnavailable),
    ("/manifests/", says(302, {"Location": "//u:p@[::1]:1/"}), ImageUnavailable),
    ("/manifests/", says(302, {"Location": "http://[broken"}), ImageUnavailable),
    ("/manifests/", says(302), ImageUnavailable),
]
STALLING: list[tuple[str, Fault]] = [
    (LAYER, after_config(stall(1000))),
    (LAYER, after_config(silence)),
    ("/manifests/", silence),
]


@pytest.mark.parametrize("at", range(len(LASTING)))
async def test_a_lasting_fault_ends_in_a_clear_error_and_leaves_nothing(
    proxy: FaultProxy, world: World, at: int
) -> None:
    pattern, fault, kind = LASTING[at]
    proxy.break_(pattern, fault)
    error = await refused(world, proxy, named(proxy))
    assert type(error) is kind
    assert len(proxy.requests) < 20
    assert all(0 < pause <= 60 for pause in world.pauses)


@pytest.mark.parametrize("at", range(len(STALLING)))
async def test_a_stall_ends_in_a_clear_error_and_leaves_nothing(
    proxy: FaultProxy, world: World, at: int
) -> None:
    proxy.break_(*STALLING[at])
    error = await refused(world, proxy, named(proxy), SHORT)
    assert type(error) is RegistryBusy
    assert len(proxy.requests) < 20
    assert all(0 < pause <= 60 for pause in world.pauses)


PASSING: list[tuple[str, Sequence[Fault], float]] = [
    (LAYER, [pass_on, truncate(70_000), truncate(70_000), pass_on], PATIENT),
    (LAYER, [pass_on, flip, pass_on], PATIENT),
    (LAYER, [pass_on, stall(100_000), pass_on], BRIEF),
    (LAYER, [pass_on, says(500), says(502), says(503), says(429), pass_on], PATIENT),
    (LAYER, [truncate(10), truncate(10), pass_on], PATIENT),
    ("/manifests/", [silence, says(504), truncate(3), pass_on], BRIEF),
]


@pytest.mark.parametrize("at", range(len(PASSING)))
async def test_a_passing_fault_is_overcome(
    proxy: FaultProxy, world: World, digest: str, at: int
) -> None:
    pattern, faults, timeout = PASSING[at]
    proxy.break_(pattern, in_turn(faults))
    puller = world.puller(options(proxy, stall=timeout))
    assert await puller.pull(named(proxy), world.reports.append) == digest
    assert world.names() == [str(named(proxy))]
    assert world.reports[-1].done_bytes == world.reports[-1].total_bytes
    assert not list(world.layout.path.glob(".tmp-*"))


async def test_a_broken_layer_is_continued_where_it_broke(
    proxy: FaultProxy, world: World, digest: str
) -> None:
    proxy.break_(LAYER, in_turn([pass_on, truncate(70_000), pass_on]))
    assert await world.puller(options(proxy)).pull(named(proxy), quiet) == digest
    ranges = [r.headers["range"] for r in proxy.seen(LAYER) if "range" in r.headers]
    assert ranges == ["bytes=70000-"]


async def test_a_layer_is_fetched_again_from_a_registry_without_ranges(
    proxy: FaultProxy, world: World, digest: str
) -> None:
    proxy.break_(LAYER, in_turn([pass_on, truncate(70_000), without_range]))
    assert await world.puller(options(proxy)).pull(named(proxy), world.reports.append) == digest
    done = [report.done_bytes for report in world.reports]
    assert done != sorted(done)  # the partial layer was dropped, and this was reported


@pytest.mark.parametrize(
    "answer",
    [
        says(206, {"Content-Range": "bytes 0-9/800000"}, b"0123456789"),
        says(206, {"Content-Range": "bytes 70000-70009/*"}, b"0123456789"),
        says(206, {}, b"0123456789"),
        says(416),
    ],
)
async def test_a_wrong_continuation_does_no_harm(
    proxy: FaultProxy, world: World, digest: str, answer: Fault
) -> None:
    proxy.break_(LAYER, in_turn([pass_on, truncate(70_000), answer, pass_on]))
    assert await world.puller(options(proxy)).pull(named(proxy), quiet) == digest


@pytest.mark.parametrize("as_date", [False, True])
async def test_retry_after_is_obeyed(
    proxy: FaultProxy, world: World, digest: str, as_date: bool
) -> None:
    when = email.utils.formatdate(world.time + 17, usegmt=True) if as_date else "17"
    proxy.break_("/manifests/", says(429, {"Retry-After": when}), times=1)
    assert await world.puller(options(proxy)).pull(named(proxy), quiet) == digest
    assert world.pauses == [17.0]


async def test_a_manifest_pulled_by_digest_must_match_it(
    proxy: FaultProxy, world: World, digest: str
) -> None:
    other = json.dumps({"schemaVersion": 2, "layers": NOTHING}).encode()
    proxy.break_("/manifests/", says(200, body=other))
    error = await refused(world, proxy, named(proxy, f"app@{digest}"))
    assert isinstance(error, ImageCorrupt)
    assert "another manifest" in error.message


NOTHING: list[object] = []
CONFIG: dict[str, object] = {"mediaType": "x", "digest": ZEROS, "size": 1}


HOSTILE: list[tuple[dict[str, object], str]] = [
    ({"schemaVersion": 1}, "schema 1"),
    ({"manifests": NOTHING, "layers": NOTHING}, "can be read as"),
    ({"layers": [{}] * 600}, "has no sha256 or sha512 digest|has no list|not a descriptor"),
    (
        {"config": {"mediaType": "x", "digest": ZEROS, "size": 1 << 40}, "layers": NOTHING},
        "more than",
    ),
    (
        {"config": {"mediaType": "x", "digest": "sha256:../../x", "size": 1}},
        "no sha256 or sha512 digest",
    ),
]


@pytest.mark.parametrize("document, words", HOSTILE)
async def test_hostile_manifests_are_refused(
    proxy: FaultProxy, world: World, document: dict[str, object], words: str
) -> None:
    media = "application/vnd.oci.image.manifest.v1+json"
    body = json.dumps({"schemaVersion": 2, "mediaType": media, **document}).encode()
    proxy.break_("/manifests/", says(200, {"Content-Type": media}, body))
    with pytest.raises(ImageCorrupt, match=words):
        await world.puller(options(proxy)).pull(named(proxy), quiet)
    assert world.is_clean()


async def test_an_index_that_leads_to_an_index_is_refused(proxy: FaultProxy, world: World) -> None:
    media = "application/vnd.oci.image.index.v1+json"
    entry = {"mediaType": media, "digest": ZEROS, "size": 1}
    body = json.dumps({"schemaVersion": 2, "mediaType": media, "manifests": [entry]}).encode()
    proxy.break_("/manifests/", says(200, {"Content-Type": media}, body))
    await refused(world, proxy, named(proxy))
    assert len(proxy.requests) == 2


async def test_cancelling_leaves_nothing(proxy: FaultProxy, world: World) -> None:
    proxy.break_(LAYER, after_config(silence))
    patient = RegistryOptions(insecure=frozenset({proxy.name}))
    pull = asyncio.create_task(world.puller(patient).pull(named(proxy), quiet))
    await until(lambda: len(proxy.seen(LAYER)) == 3)
    assert list(world.layout.path.glob(".tmp-*"))
    await cancelled(pull)
    assert world.is_clean()


async def test_a_configuration_must_match_its_digest(proxy: FaultProxy, world: World) -> None:
    proxy.break_(LAYER, in_turn([flip, pass_on]))
    error = await refused(world, proxy, named(proxy))
    assert isinstance(error, ImageCorrupt)
    assert "another configuration" in error.message


async def test_cancelling_a_tls_handshake_leaves_no_connection(world: World) -> None:
    async with FaultProxy() as mute:  # waits for plain HTTP while the puller waits for TLS
        pull = asyncio.create_task(world.puller(RegistryOptions()).pull(named(mute), quiet))
        await until(lambda: mute.connections == 1)
        await cancelled(pull)
        gc.collect()  # would warn of an unclosed connection, and warnings are errors
        await until(lambda: mute.open == 0)

# SPDX-License-Identifier: Apache-2.0
"""/healthz and /readyz of a real server: alive does not mean able to create."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.waggle_client import CREATE, call, connected, create, refusal, status
from tests.support.waggle_process import Waggle, own_cache, running, small

pytestmark = pytest.mark.anyio


async def ready(server: Waggle) -> str | None:
    """Return the server's reason why a create would fail, or None. It is alive in any case."""
    assert await status(server, "/healthz") == (200, {"status": "ok"})
    code, answer = await status(server, "/readyz")
    if code == 200:
        assert answer["status"] == "ready"
        assert "qemu" in "".join(answer["hypervisors"])
        return None
    assert (code, answer["status"]) == (503, "unavailable")
    return str(answer["reason"])


async def test_a_server_without_a_setup_is_not_ready(tmp_path: Path) -> None:
    with running(tmp_path, {"image_cache_dir": str(tmp_path / "cache")}) as server:
        assert "waggle setup" in str(await ready(server))
        (event,) = server.events("not_ready")
        assert (event["level"], event["why"]) == ("warning", await ready(server))
        async with connected(server) as client:
            error = await refusal(client, *CREATE[:1], runtime="python")
        assert error["code"] == "image_missing"
        assert "waggle image build python" in error["hint"]


@pytest.mark.vm
async def test_a_server_without_images_is_not_ready(tmp_path: Path) -> None:
    cache = own_cache(tmp_path / "cache")
    with running(tmp_path, {"image_cache_dir": str(cache)}) as server:
        assert "waggle image build" in str(await ready(server))
        async with connected(server) as client:
            for runtime in ("python", "node", "shell", "data"):
                error = await refusal(client, "create_environment", runtime=runtime)
                assert error["code"] == "image_missing"
                assert f"waggle image build {runtime}" in error["hint"]
            assert (await call(client, "list_environments")).get("count", 0) == 0


@pytest.mark.vm
@pytest.mark.timeout(300)
async def test_a_full_server_is_not_ready_until_a_place_is_free(tmp_path: Path) -> None:
    with running(tmp_path, {**small(tmp_path), "max_environments": "1"}) as server:
        assert await ready(server) is None
        assert server.events("not_ready") == []
        async with connected(server) as client:
            environment = await create(client, "shell")
            assert await ready(server) == "All 1 environments are in use."
            await call(client, "destroy_environment", environment_id=environment)
        assert await ready(server) is None


@pytest.mark.vm
@pytest.mark.timeout(300)
async def test_a_server_without_free_ports_is_not_ready(tmp_path: Path) -> None:
    settings = {**small(tmp_path), "max_environments": "5"}
    with running(tmp_path, settings, ports=1) as server:
        assert await ready(server) is None
        async with connected(server) as client:
            environment = await create(client, "shell")
            reason = str(await ready(server))
            assert str(server.ports.start) in reason
            error = await refusal(client, "create_environment", runtime="shell")
            assert (error["code"], error["retryable"]) == ("no_ports", True)
            assert "WAGGLE_SSH_PORT_BASE" in error["hint"]
            assert (await call(client, "list_environments"))["count"] == 1
            await call(client, "destroy_environment", environment_id=environment)
            again = await create(client, "shell")  # the same port
            await call(client, "destroy_environment", environment_id=again)
        assert await ready(server) is None

# SPDX-License-Identifier: Apache-2.0
"""A container, built and run inside an environment with packages of the distribution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from tests.support.waggle_client import call, connected, create
from tests.support.waggle_process import running

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.net,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
]
SECONDS = 200
PACKAGES = ["podman", "crun", "netavark", "nftables", "uidmap", "busybox-static"]
BUILT = """\
set -e
mkdir -p /srv/made && cd /srv/made && cp /bin/busybox .
cat > Containerfile <<'END'
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "echo built > /made"]
CMD ["/bin/busybox", "sh", "-c", "/bin/busybox cat /made; /bin/busybox ip -o addr"]
END
podman build --quiet --tag made . > /dev/null
podman info --format '{{.Store.GraphDriverName}} {{.Store.GraphRoot}} {{.Host.CgroupsVersion}}'
podman run --rm --network none --memory 64m made
podman run --rm made | grep -c 'eth0.*inet '
"""
ROOTLESS = """\
podman info --format '{{.Store.GraphDriverName}} {{.Store.GraphRoot}}'
"""


async def finished(client: Client, environment: str, tool: str, **wanted: Any) -> dict[str, Any]:
    """Return a call's result after its program's end. One call waits for minutes, not longer."""
    where = {"environment_id": environment, "wait_seconds": SECONDS}
    said = await call(client, tool, **where, **wanted)
    while said.get("exit_code") is None:
        said = await call(client, "wait_job", **where, job_id=said["job_id"])
    assert said["exit_code"] == 0, said
    return said


async def test_podman_builds_and_runs_a_container(tmp_path: Path) -> None:
    room = {"default_memory_mb": "1024", "scratch_mb": "2048", "install_timeout": "15m"}
    with running(tmp_path, {**room, "default_network": "public"}) as server:
        async with connected(server) as client:
            shell = await create(client, "shell")
            await finished(client, shell, "install_packages", packages=PACKAGES)
            built = await finished(client, shell, "run_command", command=BUILT, user="root")
            store, made, *rest = built["stdout"].splitlines()
            assert store == "overlay /var/lib/containers/storage v2", built
            assert (made, rest[-1]) == ("built", "1"), built
            own = await finished(client, shell, "run_command", command=ROOTLESS)
            assert own["stdout"] == "overlay /var/lib/containers/user\n", own

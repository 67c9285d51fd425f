# SPDX-License-Identifier: Apache-2.0
"""Containers, built and run inside an environment with packages of the distribution.

What every run of the tests has is an image with podman, made on the host and kept: to install that
much in an emulated machine takes minutes, which only tests marked `registry` do.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from lab.store import Store, key_of
from mcp import Client
from tests.support.waggle_client import call, connected, create
from tests.support.waggle_process import installation, running

from waggle import __version__
from waggle.config.places import Places
from waggle.infra.oci.build import build_image
from waggle.infra.oci.build.definition import ImageDefinition
from waggle.infra.oci.build.pack import fingerprint
from waggle.infra.oci.store import ImageStore
from waggle.infra.rootfs.full_kernel import FullKernel
from waggle.infra.shared import debian

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.net,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
]
SECONDS = 200
PACKAGES = ["podman", "crun", "netavark", "nftables", "uidmap", "busybox-static"]
IMAGE = ImageDefinition(
    "podman", debian.SUITE, "minbase", 1767225600, packages=tuple(PACKAGES), cmd=("bash",)
)
DOCKERS = ["docker.io", "docker-cli", "iptables"]
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


@pytest.mark.registry
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


# Containers are reached directly, not through the environment's proxy.
NETWORKED = """\
set -e
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY
mkdir -p /srv/made/root/bin /srv/made/root/w && cd /srv/made
cp /bin/busybox root/bin && echo hello > root/w/index.html
tar -C root -c . | {engine} import - served > /dev/null
{network}
{engine} run --detach --name server {on} --publish 8081:80 served \
  /bin/busybox httpd -f -p 80 -h /w > /dev/null
address=$({engine} inspect --format '{address}' server)
{engine} run --rm {on} served /bin/busybox wget -q -T 20 -O - http://$address/
busybox wget -q -T 20 -O - http://127.0.0.1:8081/
{rules}
{engine} kill server > /dev/null
"""
ADDRESS = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
PODMAN = NETWORKED.format(
    engine="podman",
    address=ADDRESS,
    network="podman network create --disable-dns apart > /dev/null",
    on="--network apart",
    rules="nft list ruleset | grep -c 'tcp dport 8081 dnat ip to'",
)
DOCKER = NETWORKED.format(
    engine="docker",
    address=ADDRESS,
    network="",
    on="",
    rules="iptables-save | grep -c 'dport 8081 -j DNAT'",
)
DAEMON = """\
dockerd > /tmp/dockerd.log 2>&1 &
for try in $(seq 300); do docker info > /dev/null 2>&1 && break || sleep 0.5; done
docker info --format '{{.Driver}} {{.CgroupVersion}}' || cat /tmp/dockerd.log
"""


async def test_podmans_containers_have_networks_with_the_full_kernel(tmp_path: Path) -> None:
    image = await image_with_podman()
    async with in_a_full_one(tmp_path, image_shell=image) as (client, shell):
        podman = await finished(client, shell, "run_command", command=PODMAN, user="root")
        assert podman["stdout"].split() == ["hello", "hello", "1"], podman


@pytest.mark.registry
async def test_dockers_containers_have_networks_with_the_full_kernel(tmp_path: Path) -> None:
    """Docker's rules are those of iptables, for which the small kernel lacks extensions."""
    async with in_a_full_one(tmp_path) as (client, shell):
        wanted = ["busybox-static", *DOCKERS]
        await finished(client, shell, "install_packages", packages=wanted)
        daemon = await finished(client, shell, "run_command", command=DAEMON, user="root")
        assert daemon["stdout"] == "overlay2 2\n", daemon
        docker = await finished(client, shell, "run_command", command=DOCKER, user="root")
        assert docker["stdout"].split() == ["hello", "hello", "1"], docker


async def image_with_podman() -> str:
    """Return the reference of the image, which is made if this machine has none."""
    installed = installation()

    async def make(directory: Path) -> None:
        sys.stderr.write("making the image with podman\n")
        store = ImageStore(directory / "images")
        await asyncio.to_thread(build_image, IMAGE, store, installed.debian_mirror)

    key = key_of(fingerprint(IMAGE, debian.mirror(installed.debian_mirror)), __version__)
    made = await Store(Places.of(installed).cache / "containers").ensure("podman", key, make)
    return f"oci:{made}/images:{IMAGE.name}"


@contextlib.asynccontextmanager
async def in_a_full_one(directory: Path, **more: str) -> AsyncGenerator[tuple[Client, str]]:
    """An environment with the full kernel, and these settings of its server."""
    room = {"default_memory_mb": "1024", "scratch_mb": "3072", "install_timeout": "20m"}
    settings = {**room, "default_network": "public", "guest_kernel": "full", "hypervisor": "qemu"}
    installed = installation()
    await FullKernel(Places.of(installed).guest).ensure(installed.debian_mirror)
    with running(directory, settings | more) as server:
        async with connected(server) as client:
            yield client, await create(client, "shell")

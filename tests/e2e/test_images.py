# SPDX-License-Identifier: Apache-2.0
"""Images of a real server: any layout boots, and a broken one is reported, not booted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from tests.support.images import busybox_layer, file, symlink, write_layout
from tests.support.server import data_of, error_of, text_of
from tests.support.waggle_client import call, connected, environment, execute, refusal
from tests.support.waggle_process import Waggle, own_cache, running, small

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]

OVER = "x" * 2_000


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def server(directory: Path) -> Generator[Waggle]:
    """A server whose runtimes boot layouts that the tests write before they create."""
    own_cache(directory / "cache")
    settings = {
        **small(directory),
        "image_cache_dir": str(directory / "cache"),
        "image_python": f"{directory}/broken:latest",
        "image_node": f"{directory}/odd:second",
    }
    with running(directory, settings) as server:
        yield server


async def test_a_from_scratch_image_boots(server: Waggle) -> None:
    """An image with a static busybox only: no shell, users, libraries or SSH server."""
    async with connected(server) as client, environment(client, network="public") as this:
        assert await execute(client, this, "busybox id -un; echo $HOME; pwd") == (
            "sandbox\n/home/sandbox\n/home/sandbox\n"
        )
        assert await execute(client, this, "busybox ls -A /bin") == "busybox\n"
        await call(client, "write_file", environment_id=this, path="a/b", content="c")
        assert await execute(client, this, "busybox cat a/b") == "c"
        installed = await client.call_tool(
            "install_packages", {"environment_id": this, "packages": "tree"}
        )
        assert error_of(installed)["code"] == "install_failed"
        assert "No such file" in text_of(installed)
        other = await client.call_tool(
            "execute", {"environment_id": this, "code": "1", "language": "node"}
        )
        assert "node" in text_of(other)
        assert "exit code: 0" not in text_of(other)


async def test_layers_variables_and_hostile_links_work(server: Waggle, directory: Path) -> None:
    """A link out of the tree points into the guest's own tree."""
    layers = [
        busybox_layer(),
        [symlink("escape", "../../../../etc/passwd"), symlink("etc", "/")],
        [file("given", b"by layer 3", 0o644)],
    ]
    config = {"Env": ["GIVEN=by the image", "PATH=/bin", "=x", "NONE"]}
    write_layout(directory / "odd", layers, name="second", config=config)
    async with connected(server) as client, environment(client, "node") as this:
        code = "busybox cat /given; echo; echo $GIVEN; busybox readlink /escape"
        assert await execute(client, this, code, language="shell") == (
            "by layer 3\nby the image\n../../../../etc/passwd\n"
        )


def manifest(layout: Path) -> dict[str, Any]:
    digest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    return json.loads(blob(layout, digest).read_text())


def blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / "sha256" / digest.partition(":")[2]


def layer(layout: Path) -> Path:
    return blob(layout, manifest(layout)["layers"][0]["digest"])


def truncate(layout: Path) -> None:
    data = layer(layout).read_bytes()
    layer(layout).write_bytes(data[: len(data) // 2])


def change(layout: Path) -> None:
    data = bytearray(layer(layout).read_bytes())
    data[len(data) // 2] ^= 1
    layer(layout).write_bytes(data)


def remove(layout: Path) -> None:
    layer(layout).unlink()


def change_configuration(layout: Path) -> None:
    path = blob(layout, manifest(layout)["config"]["digest"])
    path.write_bytes(path.read_bytes().replace(b"linux", b"minix"))


def spoil_index(layout: Path) -> None:
    (layout / "index.json").write_text('{"schemaVersion": 2, "manifests": [')


DAMAGE: dict[str, Callable[[Path], None]] = {
    "truncated": truncate,
    "changed": change,
    "removed": remove,
    "configuration": change_configuration,
    "index": spoil_index,
}
ESCAPES = {
    "dots": [file("../../escaped", b"x")],
    "absolute through a link": [symlink("out", "/tmp"), file("out/escaped", b"x")],
    "hard link": [file("a/../../escaped", b"x")],
}


async def refused(server: Waggle) -> dict[str, Any]:
    """Return the error of a create that must fail and leave nothing."""
    async with connected(server) as client:
        error = await refusal(client, "create_environment", runtime="python")
        assert (await call(client, "list_environments")).get("count", 0) == 0
    assert server.remains() == {}
    assert [p.name for p in (server.directory / "cache" / "disks").glob("*tmp*")] == []
    return error


@pytest.mark.parametrize("name", DAMAGE)
async def test_a_damaged_image_is_refused(server: Waggle, directory: Path, name: str) -> None:
    layout = directory / "broken"
    shutil.rmtree(layout, ignore_errors=True)
    # Every layout gets its own digest, so no disk made earlier is used for it.
    write_layout(layout, [[*busybox_layer(), file(name, OVER.encode())]])
    DAMAGE[name](layout)
    error = await refused(server)
    assert error["code"] == "image_corrupt", error
    assert str(layout) in error["message"] + error["hint"]


@pytest.mark.parametrize("name", ESCAPES)
async def test_a_layer_cannot_escape_its_tree(server: Waggle, directory: Path, name: str) -> None:
    layout = directory / "broken"
    shutil.rmtree(layout, ignore_errors=True)
    write_layout(layout, [[*busybox_layer(), *ESCAPES[name]]])
    before = sorted(Path("/tmp").glob("escaped*"))
    async with connected(server) as client:
        result = await client.call_tool("create_environment", {"runtime": "python"})
        if result.is_error:
            assert error_of(result)["code"] == "image_corrupt", text_of(result)
        else:  # it stayed inside the guest
            this = data_of(result)["environment_id"]
            found = await execute(client, this, "busybox ls /tmp /escaped; true", language="shell")
            await call(client, "destroy_environment", environment_id=this)
            assert "escaped" in found
    assert sorted(Path("/tmp").glob("escaped*")) == before
    assert list(directory.rglob("escaped")) == []
    assert server.remains() == {}


async def test_an_image_that_is_not_there(server: Waggle, directory: Path) -> None:
    shutil.rmtree(directory / "broken", ignore_errors=True)
    error = await refused(server)
    assert error["code"] == "image_missing"
    assert str(directory / "broken") in error["message"]

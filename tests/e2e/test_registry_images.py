# SPDX-License-Identifier: Apache-2.0
"""Images of a real registry, named by a client: pulled, booted and used, or refused."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.images import Layer, busybox_layer, directory, file, symlink, write_layout
from tests.support.packages import unpacked
from tests.support.registry import Registry, run_registry, skopeo
from tests.support.waggle_client import call, connected, environment, execute, refusal
from tests.support.waggle_process import Waggle, installation, own_cache, running, small

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(400)]

APPLETS = ("sh", "ls", "cat", "id", "uname", "grep")
MUSL = Path("lib/ld-musl-x86_64.so.1")
HELLO = """\
long write(int fd, const void *data, unsigned long size);
_Noreturn void _Exit(int status);
void _start(void) { write(1, "hello from musl\\n", 16); _Exit(0); }
"""


@dataclass(frozen=True)
class World:
    """A server with its own cache, and the registry that its clients may name."""

    server: Waggle
    registry: Registry

    def image(self, name: str) -> str:
        return f"{self.registry.name}/{name}"

    def blobs(self) -> int:
        return len([*(self.server.directory / "cache/images/blobs/sha256").iterdir()])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Generator[World]:
    here = tmp_path_factory.mktemp("registry-images")
    own_cache(here / "cache")
    with run_registry(here / "registry") as registry:
        settings = {
            **small(here),
            "image_cache_dir": str(here / "cache"),
            "allowed_images": f"{registry.name}/**",
            "insecure_registries": registry.name,
            "runtime_node_exec_command": "/usr/bin/sort {file}",
            "default_memory_mb": "256",
        }
        with running(here, settings) as server:
            yield World(server, registry)


def push(
    world: World,
    tmp_path: Path,
    name: str,
    layers: list[Layer],
    config: Mapping[str, object] | None = None,
) -> None:
    write_layout(tmp_path / "made", layers, name="v1", config=config)
    copy(f"oci:{tmp_path}/made:v1", world.image(name))


def copy(source: str, target: str) -> None:
    skopeo("copy", "--dest-tls-verify=false", source, f"docker://{target}")


async def test_a_from_scratch_image_boots(world: World, tmp_path: Path) -> None:
    config = {"Env": ["GIVEN=by the image"], "User": "4242", "WorkingDir": "/srv/work"}
    push(world, tmp_path, "scratch:v1", [busybox_layer()], config)
    image = world.image("scratch:v1")
    async with connected(world.server) as client, environment(client, image=image) as this:
        assert await execute(client, this, "echo $GIVEN; busybox id -un; busybox id -u; pwd") == (
            "by the image\nsandbox\n4242\n/srv/work\n"
        )


async def test_a_musl_userland_like_alpines_boots(world: World, tmp_path: Path) -> None:
    applets = [symlink(f"bin/{name}", "busybox") for name in APPLETS]
    release = file("etc/alpine-release", b"3.22.0\n")
    upper = [*musl_program(tmp_path), directory("etc"), release]
    push(world, tmp_path, "alpine:v1", [[*busybox_layer(), *applets], upper])
    image = world.image("alpine:v1")
    async with connected(world.server) as client, environment(client, image=image) as this:
        assert await execute(client, this, "cat /etc/alpine-release; /bin/hello") == (
            "3.22.0\nhello from musl\n"
        )


def musl_program(tmp_path: Path) -> Layer:
    """Return a program that needs musl's loader, and that loader from Debian's package."""
    work = tmp_path / "musl"
    work.mkdir()
    tree = unpacked("musl", work)
    loader = next(path for path in tree.rglob("*") if path.is_file() and is_library(path))
    shutil.copy(loader, work / "libc.so")  # the name that the program expects of its loader
    (work / "hello.c").write_text(HELLO)
    subprocess.run(
        [
            *("cc", "-nostdlib", "-nostartfiles", "-no-pie", "-fno-builtin", "-o", "hello"),
            *("hello.c", "-L.", "-l:libc.so", f"-Wl,--dynamic-linker=/{MUSL}"),
        ],
        cwd=work,
        check=True,
        timeout=60,
    )
    program = (work / "hello").read_bytes()
    return [
        directory("lib"),
        file(str(MUSL), loader.read_bytes(), 0o755),
        file("bin/hello", program, 0o755),
    ]


def is_library(path: Path) -> bool:
    return path.name in ("libc.so", MUSL.name)


async def test_a_debian_image_boots(world: World) -> None:
    store = installation().image_cache_dir / "images"
    copy(f"oci:{store}:python", world.image("team/debian:v1"))
    image = world.image("team/debian:v1")
    async with (
        connected(world.server) as client,
        environment(client, "python", image=image) as this,
    ):
        code = "import pathlib; print(pathlib.Path('/etc/debian_version').exists(), 6 * 7)"
        assert await execute(client, this, code) == "True 42\n"


async def test_a_distroless_image_boots(world: World, tmp_path: Path) -> None:
    program = shutil.which("sort")
    assert program
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    libraries = sorted(set(re.findall(r"(/\S+\.so\S*) \(", listed)))
    needed = [file("usr/bin/sort", Path(program).read_bytes(), 0o755)]
    needed += [file(path[1:], Path(path).read_bytes(), 0o755) for path in libraries]
    push(world, tmp_path, "distroless:v1", [needed])
    image = world.image("distroless:v1")
    async with (
        connected(world.server) as client,
        environment(client, "node", image=image) as this,
    ):
        assert await execute(client, this, "b\nc\na") == "a\nb\nc\n"


async def test_an_image_that_is_not_allowed_is_refused(world: World) -> None:
    async with connected(world.server) as client:
        error = await refusal(
            client, "create_environment", runtime="shell", image="other.example/app:v1"
        )
    assert error["code"] == "invalid_argument"
    assert "WAGGLE_ALLOWED_IMAGES" in error["hint"]
    assert str(world.server.directory) not in str(error), "the runtimes' own images are files here"


@pytest.mark.parametrize("path", ["/etc", "oci:/etc", "oci-archive:/etc/passwd", "../x", "~/x"])
async def test_a_host_path_is_not_accepted_as_an_image(world: World, path: str) -> None:
    async with connected(world.server) as client:
        error = await refusal(client, "create_environment", runtime="shell", image=path)
    assert error["code"] == "invalid_argument"


async def test_an_image_missing_from_the_registry_is_refused(world: World) -> None:
    before = world.blobs()
    async with connected(world.server) as client:
        error = await refusal(
            client, "create_environment", runtime="shell", image=world.image("none:v1")
        )
        assert error["code"] == "image_missing"
        assert (await call(client, "list_environments")).get("count", 0) == 0
    assert world.blobs() == before
    assert world.server.remains() == {}

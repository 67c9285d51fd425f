# SPDX-License-Identifier: Apache-2.0
"""The most used packages, installed in one environment per language, and programs built there.

The tests take minutes and download megabytes, so only `./task registries` runs them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Generator, Sequence

import pytest
from mcp import Client
from tests.support.waggle_client import call, connected, environment
from tests.support.waggle_process import Waggle, running

pytestmark = [pytest.mark.anyio, pytest.mark.registry, pytest.mark.timeout(3600)]

SETTINGS = {
    "default_exec_timeout": "4m",
    "boot_timeout": "3m",
    "install_timeout": "40m",
    "scratch_mb": "8192",
    "default_memory_mb": "2048",
}
PYPI = {
    "aiohttp": "aiohttp",
    "annotated-types": "annotated_types",
    "anyio": "anyio",
    "attrs": "attr",
    "beautifulsoup4": "bs4",
    "boto3": "boto3",
    "botocore": "botocore",
    "certifi": "certifi",
    "cffi": "cffi",
    "charset-normalizer": "charset_normalizer",
    "click": "click",
    "cryptography": "cryptography",
    "filelock": "filelock",
    "fsspec": "fsspec",
    "google-auth": "google.auth",
    "grpcio": "grpc",
    "httpx": "httpx",
    "idna": "idna",
    "jinja2": "jinja2",
    "jsonschema": "jsonschema",
    "lxml": "lxml",
    "markupsafe": "markupsafe",
    "numpy": "numpy",
    "packaging": "packaging",
    "pandas": "pandas",
    "pillow": "PIL",
    "platformdirs": "platformdirs",
    "protobuf": "google.protobuf",
    "psutil": "psutil",
    "pydantic": "pydantic",
    "pygments": "pygments",
    "pytest": "pytest",
    "python-dateutil": "dateutil",
    "pytz": "pytz",
    "pyyaml": "yaml",
    "requests": "requests",
    "s3transfer": "s3transfer",
    "six": "six",
    "sqlalchemy": "sqlalchemy",
    "urllib3": "urllib3",
}
"""The 40 most downloaded packages with wheels for Python 3.13, and a module of each package."""
NPM = [
    "ansi-styles",
    "axios",
    "chalk",
    "commander",
    "debug",
    "dotenv",
    "esbuild",
    "express",
    "glob",
    "lodash",
    "minimatch",
    "ms",
    "react",
    "rxjs",
    "semver",
    "tslib",
    "typescript",
    "uuid",
    "yargs",
    "zod",
]
"""The 20 most used packages."""

C_EXTENSION = {
    "ext/setup.py": "from setuptools import Extension, setup\n"
    "setup(name='answers', version='1', ext_modules=[Extension('answers', ['answers.c'])])\n",
    "ext/answers.c": textwrap.dedent("""\
        #include <Python.h>
        static PyObject *answer(PyObject *self, PyObject *none) { return PyLong_FromLong(42); }
        static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, ""}, {0}};
        static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "answers", "", -1, methods};
        PyMODINIT_FUNC PyInit_answers(void) { return PyModule_Create(&module); }
        """),
}
ADDON = {
    "addon/package.json": '{"name": "addon", "version": "1.0.0", "gypfile": true}',
    "addon/binding.gyp": '{"targets": [{"target_name": "addon", "sources": ["addon.c"]}]}',
    "addon/addon.c": textwrap.dedent("""\
        #include <node_api.h>
        static napi_value init(napi_env env, napi_value exports) {
          napi_value answer;
          napi_create_int32(env, 42, &answer);
          napi_set_named_property(env, exports, "answer", answer);
          return exports;
        }
        NAPI_MODULE(NODE_GYP_MODULE_NAME, init)
        """),
}
GO = 'package main\n\nimport "fmt"\n\nfunc main() { fmt.Println(6 * 7) }\n'
CLONE = """
git init -q --bare served/it.git
git init -q made && cd made && echo cloned > file && git add file
git -c user.name=a -c user.email=a@b commit -qm first && git push -q ../served/it.git HEAD:main
cd .. && git -C served/it.git update-server-info
python3 -m http.server -b 127.0.0.1 -d served 8123 >/dev/null 2>&1 & server=$!
until curl -sf http://127.0.0.1:8123/ >/dev/null; do sleep 0.1; done
git clone -q -b main http://127.0.0.1:8123/it.git copy && kill $server && cat copy/file
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Waggle]:
    with running(tmp_path_factory.mktemp("registries"), SETTINGS) as server:
        yield server


async def finish(client: Client, box: str, tool: str, **arguments: object) -> str:
    """Call a tool, wait for its end however long it takes, and return its output. It must succeed.

    No single call waits as long as a client does (240 s).
    """
    ran = await call(client, tool, environment_id=box, **arguments, wait_seconds=200)
    while ran.get("status") == "running":
        job = {"environment_id": box, "job_id": ran["job_id"]}
        ran = await call(client, "read_job", **job, wait_seconds=200)
    assert not ran.get("exit_code"), ran
    return str(ran.get("stdout", ""))


async def run(client: Client, box: str, code: str, **arguments: object) -> str:
    """Run code in the runtime's language and return its output. It must succeed."""
    return await finish(client, box, "execute", code=code, **arguments)


async def shell(client: Client, box: str, lines: str) -> str:
    """Run lines of shell and return their output. They must succeed."""
    return await run(client, box, f"set -e\n{lines}", language="shell")


async def install(client: Client, box: str, packages: Sequence[str]) -> None:
    await finish(client, box, "install_packages", packages=[*packages])


async def put(client: Client, box: str, files: dict[str, str]) -> None:
    for path, content in files.items():
        await call(client, "write_file", environment_id=box, path=path, content=content)


async def test_the_most_used_python_packages_are_installed(server: Waggle) -> None:
    async with connected(server) as client, environment(client, "python") as box:
        await install(client, box, [*PYPI])
        code = f"""
import importlib
for name in {sorted(PYPI.values())!r}:
    importlib.import_module(name)
print("all of them")
"""
        assert await run(client, box, code) == "all of them\n"
        assert "pytest" in await shell(client, box, "pytest --version 2>&1")


async def test_the_most_used_node_packages_are_installed(server: Waggle) -> None:
    async with connected(server) as client, environment(client, "node") as box:
        await install(client, box, NPM)
        code = "".join(f"await import({name!r});\n" for name in NPM) + "console.log('imported')"
        assert await run(client, box, code, cwd="/tmp") == "imported\n"
        assert "Version" in await shell(client, box, "tsc --version; esbuild --version")


async def test_a_c_extension_and_a_node_addon_are_compiled(server: Waggle) -> None:
    async with connected(server) as client, environment(client, "python") as box:
        await put(client, box, C_EXTENSION)
        made = "cd ext; python3 setup.py -q sdist 2>/dev/null; pip install -q dist/*.tar.gz"
        await shell(client, box, made)
        assert await run(client, box, "import answers; print(answers.answer())") == "42\n"
    async with connected(server) as client, environment(client, "node") as box:
        await put(client, box, ADDON)
        await shell(client, box, "cd addon; npm install --no-audit --no-fund")
        code = "console.log(require('/home/sandbox/addon/build/Release/addon.node').answer)"
        assert await run(client, box, code) == "42\n"


DISTRIBUTION = {
    "ffmpeg": ("ffmpeg -version | head -n 1 | cut -d' ' -f1-2", "ffmpeg version\n"),
    "postgresql": (
        "sudo service postgresql start >&2; sudo -u postgres psql -Atc 'select 6*7'",
        "42\n",
    ),
    "cargo": ("cargo new -q --vcs none hello; cd hello; cargo run -q", "Hello, world!\n"),
    "golang-go": ("cd go; go build -o it main.go; ./it", "42\n"),
}
"""Packages, the commands that use them, and the expected output."""


@pytest.mark.parametrize("package", DISTRIBUTION)
async def test_a_distribution_package_works(server: Waggle, package: str) -> None:
    lines, printed = DISTRIBUTION[package]
    async with connected(server) as client, environment(client, "shell") as box:
        await put(client, box, {"go/main.go": GO})
        await install(client, box, [package])
        assert await shell(client, box, lines) == printed


async def test_a_repository_is_cloned(server: Waggle) -> None:
    async with connected(server) as client, environment(client, "shell") as box:
        assert await shell(client, box, CLONE) == "cloned\n"

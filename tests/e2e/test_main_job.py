# SPDX-License-Identifier: Apache-2.0
"""The main job in every runtime: create, run, files, packages, destroy, over real MCP."""

from __future__ import annotations

import pytest
from tests.support.server import ERAS, MODERN, data_of, error_of
from tests.support.waggle_client import call, connected, create, execute, until
from tests.support.waggle_process import Waggle

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(400)]

RUNTIMES = ("python", "node", "shell")
PROGRAMS = {
    "python": "import os, sys; print('out', os.getuid(), os.getcwd()); "
    "print('err', file=sys.stderr); sys.exit(7)",
    "node": "console.log('out', process.getuid(), process.cwd()); "
    "console.error('err'); process.exit(7)",
    "shell": "echo out $(id -u) $PWD; echo err >&2; exit 7",
}
ECHO = {
    "python": "import os, sys; sys.stdout.write(sys.stdin.read() + os.environ['GIVEN'])",
    "node": "process.stdout.write(require('fs').readFileSync(0) + process.env.GIVEN)",
    "shell": 'cat; printf %s "$GIVEN"',
}


@pytest.mark.parametrize("runtime", RUNTIMES)
class TestExecute:
    async def test_output_user_directory_and_exit_code_are_returned(
        self, server: Waggle, environment: str, runtime: str
    ) -> None:
        async with connected(server) as client:
            result = await call(
                client, "execute", environment_id=environment, code=PROGRAMS[runtime]
            )
        assert result["stdout"] == "out 1000 /home/sandbox\n"
        assert result["stderr"] == "err\n"
        assert result["exit_code"] == 7
        assert result["status"] == "exited"

    async def test_stdin_variables_and_directory_reach_the_program(
        self, server: Waggle, environment: str, runtime: str
    ) -> None:
        text = "line 1\n'quoted' \"twice\" $HOME `date` \\ \0 é 😀\n"
        async with connected(server, MODERN) as client:
            result = await call(
                client,
                "execute",
                environment_id=environment,
                code=ECHO[runtime],
                stdin=text,
                env={"GIVEN": "a b'c\"d$e"},
                cwd="/tmp",
            )
        assert result["stdout"] == text + "a b'c\"d$e"

    async def test_a_missing_directory_is_named(
        self, server: Waggle, environment: str, runtime: str
    ) -> None:
        async with connected(server) as client:
            result = await call(
                client, "execute", environment_id=environment, code=ECHO[runtime], cwd="/no/such"
            )
        assert result["exit_code"] == 125
        assert result["stderr"] == "waggle: /no/such: No such file or directory\n"

    async def test_code_is_never_quoted(
        self, server: Waggle, environment: str, runtime: str
    ) -> None:
        code = {
            "python": "print('''a\"b'c $(id) `id` \\\\ é 😀''')",
            "node": "console.log('a\"b\\'c $(id) `id` \\\\ é 😀')",
            "shell": "cat <<'END'\na\"b'c $(id) `id` \\ é 😀\nEND",
        }[runtime]
        async with connected(server) as client:
            assert await execute(client, environment, code) == "a\"b'c $(id) `id` \\ é 😀\n"

    async def test_the_largest_code(self, server: Waggle, environment: str, runtime: str) -> None:
        start, comment = {
            "python": ("print(6 * 7)\n", "#"),
            "node": ("console.log(6 * 7)\n", "//"),
            "shell": ("echo $((6 * 7))\n", "#"),
        }[runtime]
        code = start + comment
        code += "x" * (512_000 - len(code))
        async with connected(server) as client:
            assert await execute(client, environment, code) == "42\n"


@pytest.mark.parametrize("era", ERAS)
async def test_files(server: Waggle, python: str, era: str) -> None:
    async with connected(server, era) as client:
        path = f"made/on/the/way/{era}.txt"
        written = await call(
            client, "write_file", environment_id=python, path=path, content="é\n", mode="0600"
        )
        assert written["path"] == f"/home/sandbox/{path}"
        assert written["bytes_written"] == 3
        read = await call(client, "read_file", environment_id=python, path=written["path"])
        assert read == {"content": "é\n"}
        listed = await call(
            client, "list_files", environment_id=python, path="/home/sandbox/made/on/the/way"
        )
        (item,) = [item for item in listed["files"] if item["name"] == f"{era}.txt"]
        assert item == {"name": f"{era}.txt", "size": 3, "mode": "0600"}
        code = f"print(open({path!r}).read(), end='')"
        assert await execute(client, python, code) == "é\n"


@pytest.mark.net
class TestPackages:
    async def test_python(self, server: Waggle, python: str) -> None:
        """Extras reach pip, which warns of one that the package does not have."""
        async with connected(server) as client:
            installed = await call(
                client,
                "install_packages",
                environment_id=python,
                packages="six[nothing]==1.* colorama",
            )
            said = installed.get("stdout", "") + installed.get("stderr", "")
            assert "does not provide the extra 'nothing'" in said
            code = "import colorama, six; print(six.PY3, len(colorama.Fore.RED))"
            assert await execute(client, python, code) == "True 5\n"

    async def test_python_in_a_context(self, server: Waggle, python: str) -> None:
        """A package is there for the cells after the one that installs it."""
        where = {"environment_id": python, "context": "packages", "wait_seconds": 120}
        async with connected(server) as client:
            for code, said in (
                ("%pip install -q humanize", ""),
                ("import humanize\nhumanize.intcomma(12345)", "'12,345'"),
                ("!pip install -q iniconfig\nimport iniconfig\niniconfig.__name__", "'iniconfig'"),
            ):
                done = await call(client, "execute", code=code, **where)
                assert done.get("exit_code", 0) == 0, done
                assert said in done.get("stdout", ""), done
                assert "restart" not in done.get("stdout", ""), done

    async def test_node_packages_by_require_and_import(self, server: Waggle, node: str) -> None:
        async with connected(server) as client:
            await call(
                client, "install_packages", environment_id=node, packages="is-number@7 @types/ms"
            )
            code = "console.log(require('is-number')(5))"
            assert await execute(client, node, code) == "true\n"
            code = "import isNumber from 'is-number';\nconsole.log(isNumber('x'))\n"
            assert await execute(client, node, code) == "false\n"

    async def test_distribution_packages_are_installed(self, server: Waggle, shell: str) -> None:
        async with connected(server) as client:
            await call(client, "install_packages", environment_id=shell, packages=["hello"])
            assert await execute(client, shell, "hello") == "Hello, world!\n"


@pytest.mark.parametrize("era", ERAS)
async def test_an_environment_from_its_creation_to_its_end(server: Waggle, era: str) -> None:
    heard: list[tuple[float, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, message))

    before = len(server.machines())
    async with connected(server, era) as client:
        made = data_of(
            await client.call_tool(
                "create_environment",
                {"runtime": "shell", "name": f"whole-{era}", "timeout_minutes": 5},
                progress_callback=on_progress,
            )
        )
        environment = made["environment_id"]
        assert (made["name"], made["status"], made["timeout"]) == (f"whole-{era}", "running", "5m")
        state = await call(client, "get_environment", environment_id=environment)
        assert state["ssh_port"] in server.listeners()
        shares = [share for share, _ in heard]
        assert shares == sorted(shares)
        assert any("Booting" in str(message) for _, message in heard)
        assert shares[-1] == 1

        listed = await call(client, "list_environments")
        assert environment in [row["environment_id"] for row in listed["environments"]]
        assert await execute(client, environment, "hostname") == f"whole-{era}\n"

        for _ in range(2):  # destroying again is fine, too
            gone = await call(client, "destroy_environment", environment_id=environment)
            assert gone["status"] == "destroyed"
        listed = await call(client, "list_environments")
        left = listed.get("environments", ())
        assert environment not in [row["environment_id"] for row in left]
        result = await client.call_tool("execute", {"environment_id": environment, "code": "true"})
        assert error_of(result)["code"] == "not_found"
    assert state["ssh_port"] not in server.listeners()
    assert environment not in server.directories()
    await until(lambda: len(server.machines()) == before)


async def test_environments_do_not_see_each_other(server: Waggle, python: str) -> None:
    async with connected(server) as client:
        other = await create(client, "python", network="none")
        await execute(client, python, "open('/tmp/mine', 'w').write('secret')")
        code = "import os; print(os.path.exists('/tmp/mine'))"
        assert await execute(client, other, code) == "False\n"
        assert await execute(client, python, code) == "True\n"
        await call(client, "destroy_environment", environment_id=other)

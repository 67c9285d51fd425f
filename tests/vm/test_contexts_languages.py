# SPDX-License-Identifier: Apache-2.0
"""Live Node, bash and busybox's shell on real machines: state, errors, interrupts and ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from tests.support.contexts import BASH, BUSYBOX, NODE, Interpreter, image_lab
from tests.support.vm import Parts

from waggle.service.local.guest import LocalGuest

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
async def node_guest(
    tmp_path_factory: pytest.TempPathFactory, guest_parts: Parts
) -> AsyncGenerator[LocalGuest]:
    async with image_lab(tmp_path_factory.mktemp("lab"), guest_parts, "node") as lab:
        yield await lab.guest("node", memory=384)


@pytest.fixture(scope="module")
async def shell_guest(
    tmp_path_factory: pytest.TempPathFactory, guest_parts: Parts
) -> AsyncGenerator[LocalGuest]:
    async with image_lab(tmp_path_factory.mktemp("lab"), guest_parts, "shell") as lab:
        yield await lab.guest("shell")


@pytest.fixture(scope="module")
async def node(node_guest: LocalGuest) -> AsyncGenerator[Interpreter]:
    made = await Interpreter.begin(node_guest, NODE)
    yield made
    await made.end()


@pytest.fixture(scope="module", params=[BASH, BUSYBOX], ids=["bash", "busybox"])
async def shell(
    request: pytest.FixtureRequest, shell_guest: LocalGuest
) -> AsyncGenerator[Interpreter]:
    made = await Interpreter.begin(shell_guest, request.param)
    yield made
    await made.end()


@pytest.fixture(scope="module")
async def bare(guest: LocalGuest) -> AsyncGenerator[Interpreter]:
    """The kit's shell in an image that has nothing but busybox."""
    made = await Interpreter.begin(guest, BUSYBOX)
    yield made
    await made.end()


async def test_node_keeps_its_state(node: Interpreter) -> None:
    await node.prints("const x = 41; let f = (n) => n + x; process.chdir('/tmp')")
    assert await node.prints("console.log(f(1), process.cwd())") == "42 /tmp\n"
    assert await node.prints("await Promise.resolve(f(2))") == "43\n"
    assert await node.prints("const fs = require('fs'); typeof fs.readFileSync") == "'function'\n"
    assert await node.prints("import os from 'os'; typeof os.cpus") == "'function'\n"


async def test_node_shows_errors_and_keeps_its_state(node: Interpreter) -> None:
    await node.prints("globalThis.kept = 1")
    for code in ("null.x", "throw 7", "let = ;", "await Promise.reject(new Error('no'))"):
        cell = await node.cell(code)
        assert cell.code == 1, (code, cell)
        assert cell.err
        assert "\x1b" not in cell.err
    assert await node.prints("kept") == "1\n"


async def test_node_is_interrupted_and_keeps_its_state(node: Interpreter) -> None:
    for code in ("for (;;);", "await new Promise(() => setInterval(() => {}, 1000))"):
        cell = await node.cell(code, timeout=2)
        assert (cell.result.timed_out, cell.result.context_ended) == (True, False), code
    assert await node.prints("kept") == "1\n"


async def test_node_has_variables_directory_and_input(node: Interpreter) -> None:
    cell = await node.cell(
        "console.log(process.env.GIVEN, process.cwd(), require('fs').readFileSync(0, 'utf8'))",
        env={"GIVEN": "a b"},
        cwd="/usr",
        stdin=b"in",
    )
    assert (cell.code, cell.out) == (0, "a b /usr in\n")


async def test_node_that_exits_takes_its_cell_along(node_guest: LocalGuest) -> None:
    made = await Interpreter.begin(node_guest, NODE)
    cell = await made.cell("console.log('so far'); process.exit(3)")
    assert (cell.result.context_ended, cell.out) == (True, "so far\n")
    assert (await made.ends).exit_code == 3
    await made.end()


async def test_a_shell_keeps_its_state(shell: Interpreter) -> None:
    await shell.prints("cd /tmp; X=41; f() { echo $((X + $1)); }; export Y=e")
    assert await shell.prints("pwd; f 1; sh -c 'echo $Y'") == "/tmp\n42\ne\n"
    cell = await shell.cell("echo before; false")
    assert (cell.code, cell.out) == (1, "before\n")
    assert await shell.prints("echo $X") == "41\n"


async def test_a_shell_outlives_bad_cells(shell: Interpreter) -> None:
    await shell.prints("KEPT=1")
    for code in (
        "if; then",
        "nosuchprogram",
        "exec 1>&-; echo x",
        "( exit 7 )",
        "kill -9 $(sh -c 'echo $$') 2>/dev/null",
        "sleep 0.1 & wait",
    ):
        await shell.cell(code)
    assert await shell.prints("echo $KEPT") == "1\n"


async def test_a_shell_is_interrupted_and_keeps_its_state(shell: Interpreter) -> None:
    await shell.prints("KEPT=1")
    for code in ("sleep 600", "while :; do :; done", "while :; do sleep 1; done"):
        cell = await shell.cell(code, timeout=2)
        assert (cell.result.timed_out, cell.result.context_ended) == (True, False), code
    assert await shell.prints("echo $KEPT") == "1\n"


async def test_a_shell_has_variables_directory_and_input(shell: Interpreter) -> None:
    cell = await shell.cell(
        'echo "$GIVEN" "$PWD"; read -r line; echo "$line"; cat',
        env={"GIVEN": "a 'b' $x"},
        cwd="/usr",
        stdin=b"one\ntwo\n",
    )
    assert (cell.code, cell.out) == (0, "a 'b' $x /usr\none\ntwo\n")
    cell = await shell.cell("read -r line || echo none")
    assert cell.out == "none\n"


@pytest.mark.parametrize("argv", [BASH, BUSYBOX], ids=["bash", "busybox"])
async def test_a_shell_that_exits_takes_its_cell_along(
    shell_guest: LocalGuest, argv: tuple[str, ...]
) -> None:
    made = await Interpreter.begin(shell_guest, argv)
    cell = await made.cell("echo so far; exit 3")
    assert (cell.result.context_ended, cell.out) == (True, "so far\n")
    assert (await made.ends).exit_code == 3
    await made.end()


async def test_a_bare_image_has_shell_contexts_of_the_kit(bare: Interpreter) -> None:
    await bare.prints("X=1; cd /tmp")
    assert await bare.prints("echo $X; pwd") == "1\n/tmp\n"
    cell = await bare.cell("while :; do :; done", timeout=2)
    assert (cell.result.timed_out, cell.result.context_ended) == (True, False)
    first = bare.start("echo go; /.waggle/bin/busybox sleep 1; X=2")
    await first.printed("go")
    second = await bare.cell("echo $X")
    await asyncio.wait({first.task})
    assert second.out == "2\n"

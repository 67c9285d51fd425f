# SPDX-License-Identifier: Apache-2.0
"""The driver of Node contexts (kit/guest/context*.node) with this host's Node, and pyright's."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.driver_rig import Driver
from tests.support.programs import NODE

from waggle.domain.diagnosis import Module, suspected
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.rootfs.kit import GUEST_SOURCES

NODES = sorted({str(NODE), shutil.which("node") or str(NODE)})


@pytest.fixture(params=NODES)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    for part in GUEST_SOURCES.glob("context*.node"):
        shutil.copy(part, tmp_path / f"{part.stem}.js")
    with Driver([request.param, tmp_path / "context.js"], tmp_path / "driver", ".js") as driver:
        yield driver


def test_state_stays_and_the_last_value_is_shown(node: Driver) -> None:
    code = "const a = 1; let b = [a, 'x']; class C { n = 2 }\nfunction f() { return b }"
    assert node.run(code).out == ""
    assert node.run("const a = { deep: new Map([[1, f()]]) }; class C { n = 3 }").out == ""
    assert node.run("[a, new C()]").out == "[ { deep: Map(1) { 1 => [Array] } }, C { n: 3 } ]\n"
    for text, shown in (("undefined", ""), ("null", "null\n"), ("-0", "-0\n"), ("12n", "12n\n")):
        assert node.run(text).out == shown
    assert node.run("Symbol('s')").out == "Symbol(s)\n"
    elsewhere = node.place / "else where"
    elsewhere.mkdir()
    value = "1\n2='"
    shown = "console.log(process.cwd(), JSON.stringify(process.env.V))"
    printed = f"{elsewhere} {json.dumps(value)}\n"
    assert node.run(shown, cwd=elsewhere, env={"V": value}).out == printed
    assert node.run(shown).out == printed


def test_awaits_anywhere_and_waits_for_a_promise_that_comes_last(node: Driver) -> None:
    assert node.run("const x = await new Promise(r => setTimeout(r, 5, 7)); x").out == "7\n"
    code = "async function main() { await 1; console.log('in main') }\nmain()"
    assert node.run(code).out == "in main\n"
    ended = node.run("(async () => { await 1; throw new TypeError('late') })()")
    assert (ended.status, ended.err.splitlines()[0]) == (1, "TypeError: late")


def test_modules_are_those_of_the_working_directory(node: Driver) -> None:
    (node.cwd / "own.js").write_text("exports.value = 42")
    package = node.cwd / "node_modules" / "pack"
    package.mkdir(parents=True)
    (package / "package.json").write_text('{"type": "module", "exports": {"import": "./i.js"}}')
    (package / "i.js").write_text("export default 'D'; export const part = 'P', other = 'O'")
    (node.cwd / "data.json").write_text('{"k": 1}')
    code = (
        "import d, { part,\n  other as o } from 'pack'; import * as all from \"pack\"\n"
        "import { readFileSync } from 'node:fs';import 'pack'\n"
        "let text = `import x from 'nothing'`, r = /import('no')/, s = 'import(1)' // import('n')\n"
        "console.log(d, part, o, Object.keys(all).join(), typeof readFileSync, text, r.source, s)\n"
        "console.log(require('./own').value, (await import('pack')).other)\n"
        "console.log(require('./data.json').k, require.main === module, import.meta.dirname)\n"
    )
    ended = node.run(code)
    assert ended.out == (
        "D P O default,other,part function import x from 'nothing' import('no') import(1)\n"
        f"42 O\n1 true {node.cwd}\n"
    ), ended.err
    assert node.run("d + part").out == "'DP'\n"
    ended = node.run("import { nothing } from 'pack'")
    assert (ended.status, "does not provide an export named 'nothing'" in ended.err) == (1, True)
    assert "Cannot find package" in node.run("import x from 'missing'").err


def test_errors_are_short_and_without_the_driver(node: Driver) -> None:
    ended = node.run("function f() { throw new Error('no') }\nf()")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err == "Error: no\n    at f (cell-1.js:1:22)\n    at cell-1.js:2:1\n"
    ended = node.run("1\nx = ;\n")
    assert ended.err == "cell-2.js:2\nx = ;\n    ^\n\nSyntaxError: Unexpected token ';'\n"
    missing = node.run("require('left-pad')").err
    assert suspected(missing, 1) == Module(RuntimeName.NODE, "left-pad"), missing
    assert "node:internal" not in missing
    assert node.run("throw 5").err == "Uncaught 5\n"
    ended = node.run("const e = new Error('a', { cause: new Error('b') }); e.code = 'E'; throw e")
    assert "code: 'E'" in ended.err
    assert "context" not in ended.err
    hostile = "throw new Proxy(new Error('x'), { get() { throw 1 } })"
    assert node.run(hostile).status == 1
    assert node.run("1").out == "1\n"


def test_errors_that_nobody_handles_fail_a_cell_and_end_nothing(node: Driver) -> None:
    code = "setTimeout(() => { throw new Error('timer') }, 1); await new Promise(() => {})"
    ended = node.run(code)
    assert (ended.status, ended.err.splitlines()[0]) == (1, "Error: timer")
    ended = node.run("Promise.reject(new Error('rejected')); 5")
    assert (ended.status, ended.out, "Error: rejected" in ended.err) == (1, "5\n", True)
    poll = "if (!require('fs').existsSync('go')) return; clearInterval(timer);"
    node.run(f"const timer = setInterval(() => {{ {poll} throw new Error('between') }}, 5); 1")
    (node.cwd / "go").touch()
    node.logged("Error: between")
    assert node.run("'goes on'").out == "'goes on'\n"


def test_programs_and_descriptors_are_those_of_the_cell(node: Driver) -> None:
    code = (
        "const { execSync, spawnSync } = require('child_process'), fs = require('fs')\n"
        "console.log('a'); execSync('echo b; echo c >&2; cat', { stdio: 'inherit' })\n"
        "spawnSync('sh', ['-c', 'echo d'], { stdio: ['ignore', process.stdout, 'inherit'] })\n"
        "fs.writeSync(1, 'e\\n'); fs.writeFileSync('/dev/stderr', 'f\\n')\n"
        "execSync('ls -l /proc/self/fd | grep -c -e requests -e answers || true').toString().trim()"
    )
    ended = node.run(code, stdin=b"in\n")
    assert (ended.out, ended.err) == ("a\nb\nin\nd\ne\n'0'\n", "c\nf\n")
    assert node.run("fs.readFileSync(0, 'utf8')", stdin=b"typed").out == "'typed'\n"
    lines = (
        "for await (const l of require('readline').createInterface(process.stdin)) console.log(l)"
    )
    for word in ("one", "two"):
        assert node.run(lines, stdin=f"{word}\n".encode()).out == f"{word}\n"


def test_what_is_closed_by_a_cell_is_there_in_the_next(node: Driver) -> None:
    close = "for (const fd of [0, 1, 2, 3, 4]) fs.closeSync(fd)"
    assert node.run(f"const fs = require('fs'); {close}; console.log('lost')").status == 0
    assert (
        node.run("process.stdout.end('a'); process.stderr.destroy(); console.log('b')").out
        == "ab\n"
    )
    assert node.run("console.log('still'); console.error('e')").err == "e\n"


def test_a_flood_to_a_slow_reader_is_whole_and_answered(node: Driver) -> None:
    code = "const s = 'x'.repeat(1e6); for (let i = 0; i < 100; i++) process.stdout.write(s)"
    cell = node.ask(code + "; console.error('n'.repeat(10000))", is_read=False)
    cell.may_read.wait(0.2)
    cell.may_read.set()
    ended = node.wait(cell)
    assert (ended.status, len(ended.out), len(ended.err)) == (0, 100_000_000, 10_001)


def test_streams_that_end_in_standard_output_leave_it_open(node: Driver) -> None:
    (node.cwd / "file").write_text("text\n")
    code = (
        "const read = () => require('fs').createReadStream('file')\n"
        "await require('stream/promises').pipeline(read(), process.stdout)\n"
        "await new Promise(r => read().on('close', r).pipe(process.stdout)); await 1"
    )
    for _ in range(2):
        assert node.run(code).out == "text\ntext\n1\n"


def test_programs_that_replace_globals_end_nothing(node: Driver) -> None:
    assert node.run("Buffer = Promise = setImmediate = null; 5").status == 0
    assert node.run("6").out == "6\n"


def test_a_reader_that_is_gone_ends_nothing(node: Driver) -> None:
    code = "await new Promise(r => process.stdin.on('end', r).resume())\n"
    code += "console.log(1); console.error(2); display(3); 4"
    cell = node.ask(code, stdin=None, is_read=False)
    cell.hang_up()
    os.close(cell.stdin)
    assert node.wait(cell).status == 0
    assert node.run("1").out == "1\n"


BUSY = [
    "console.log('go'); for (;;);",
    "console.log('go'); await 1; for (;;);",
    "console.log('go'); await 1; for (;;) await 0",
    "console.log('go'); await new Promise(r => setTimeout(r, 1e6))",
    "console.log('go'); await new Promise(() => {})",
    "setTimeout(() => { console.log('go'); for (;;); }); await new Promise(() => {})",
    "Promise.resolve().then(() => { console.log('go'); for (;;); }); await new Promise(() => {})",
    "console.log('go'); require('child_process').execSync('sleep 100')",
    "console.log('go'); Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)",
    "for (;;) console.log('go')",
    "console.log('go'); await require('fs').promises.readFile('/dev/null'); for (;;) await 0",
]


def test_an_interrupt_ends_the_cell_alone(node: Driver) -> None:
    node.run("let kept = 'kept'; globalThis.gc = () => require('v8')")
    for code in BUSY:
        cell = node.ask(code)
        cell.printed("go")
        ended = node.interrupted(cell)
        assert ended.status == 1, code
        assert "SIGINT" in ended.err, code
        assert node.run("kept").out == "'kept'\n", code
    node.interrupt()
    litter = "for (let i = 0; i < 50; i++) new Array(1e5).fill(i).map(String); kept"
    assert node.run(litter).out == "'kept'\n"


def test_exit_ends_the_driver_without_an_answer(node: Driver) -> None:
    ended = node.run("console.log('last'); process.exit(7)")
    assert (ended.status, ended.out, ended.err) == (None, "last\n", "")
    assert node.exit_status() == 7


def test_garbage_is_reported_and_ignored(node: Driver) -> None:
    for line in ("garbage\n", "\n", "x 1 /tmp\n", "../.. 1 /\n", "\xff\0\n", "y" * 40_000 + "\n"):
        node.send(line)
    assert node.run("1").out == "1\n"
    assert node.log.read_text().count("waggle: not a request: ") == 6
    missing = "0" * 36
    node.send(f"{missing} 999999999 {node.place}/nothing\n")
    assert node.line() == f"{missing} 1"
    assert node.run("2").out == "2\n"


def test_programs_left_running_go_on_and_print_where_they_began(node: Driver) -> None:
    left = "const p = require('child_process').spawn('sh', ['-c', 'read x; echo left'],"
    cell = node.ask(f"{left} {{ stdio: ['pipe', 'inherit', 'inherit'] }}); 1")
    answer = node.line()
    assert answer == f"{cell.id} 0"
    assert node.run("p.stdin.end('x\\n'); await new Promise(r => p.on('close', r)); 2").out == "2\n"
    assert cell.ended(0).out == "1\nleft\n"


def test_displays_are_records(node: Driver) -> None:
    code = (
        "display({ 'text/plain': 'p', 'image/png': Buffer.from('png') }); display.html('<b>')\n"
        "display.json({ a: 1 }); display.svg('<svg/>'); display([1]);\n"
        "({ [Symbol.for('Jupyter.display')]: () => ({ 'text/markdown': '*m*' }) })"
    )
    ended = node.run(code)
    assert [record["data"] for record in ended.displays] == [
        {"text/plain": "p", "image/png": "cG5n"},
        {"text/html": "<b>"},
        {"application/json": '{"a":1}'},
        {"image/svg+xml": "<svg/>"},
        {"text/plain": "[ 1 ]"},
        {"text/markdown": "*m*"},
    ]
    assert ended.out == ""


def test_types_are_stripped_where_node_can(node: Driver) -> None:
    can = "true" in node.run("'stripTypeScriptTypes' in require('module')").out
    ended = node.run("const n: number = 5; n", extension=".ts")
    assert (ended.out, ended.status) == (("5\n", 0) if can else ("", 1))


def test_a_long_name_and_a_deep_recursion_are_errors_of_the_cell(node: Driver) -> None:
    name = "n" * 10_000
    assert name in node.run(f"{name}()").err
    assert "RangeError" in node.run("function f() { f() }; f()").err
    assert node.run("1").out == "1\n"

# SPDX-License-Identifier: Apache-2.0
"""Contexts of Python (kit/guest/context.python): state, streams, values and errors."""

from __future__ import annotations

import pytest
from tests.support.context_rig import ContextRig


def test_state_stays(rig: ContextRig) -> None:
    assert rig.run("import os\nx = 1\ndef f(): return x + 1").status == 0
    (rig.work / "own.py").write_text("value = 42")
    cell = rig.run("from own import value\nprint(f(), value, __name__, os.getcwd())\nx += 1")
    assert (cell.out, cell.status) == (f"2 42 __main__ {rig.work}\n", 0), cell.err
    assert rig.run("x").out == "2\n"
    assert rig.run("os.chdir('/')").status == 0
    assert rig.run("print(os.getcwd())").out == "/\n"
    assert not list(rig.home.iterdir())
    assert rig.printed == ""


def test_variables_and_directory_of_a_request_stay(rig: ContextRig) -> None:
    rig.run("import os", env="A=1\0B=x=y\n\0", cwd="/usr")
    assert rig.run("print(os.environ['A'], repr(os.environ['B']), os.getcwd())").out == (
        "1 'x=y\\n' /usr\n"
    )
    cell = rig.run("print(1)", cwd="/none")
    assert (cell.status, cell.out) == (1, "")
    assert "No such file or directory: '/none'" in cell.err


def test_errors_show_the_lines_of_cells_and_nothing_of_the_driver(rig: ContextRig) -> None:
    rig.run("def f(x):\n    return 1 / x")
    cell = rig.run(
        "try:\n    f(0)\nexcept ZeroDivisionError as error:\n    raise KeyError('k') from error"
    )
    assert cell.status == 1
    assert [line.strip() for line in cell.err.splitlines() if "File" in line] == [
        'File "<cell 2>", line 2, in <module>',
        'File "<cell 1>", line 2, in f',
        'File "<cell 2>", line 4, in <module>',
    ]
    assert "    return 1 / x\n" in cell.err
    assert cell.err.splitlines()[-1] == "KeyError: 'k'"
    assert "\x1b" not in cell.err
    cell = rig.run("x = (")
    assert (cell.status, cell.err.split()[:2]) == (1, ["File", '"<cell'])
    assert rig.run("print('alive')").out == "alive\n"


@pytest.mark.parametrize(
    "code, said",
    [
        ("def f(): f()\nf()", "RecursionError"),
        ("def f(): g()\ndef g(): f()\nf()", "RecursionError"),
        ("'x' * (1 << 62)", "MemoryError"),
        ("bytearray(1 << 62)", "MemoryError"),
        ("class E(Exception):\n    def __str__(self): raise ValueError\nraise E", "E"),
        ("raise BaseException('base')", "BaseException: base"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("\0", "null byte"),
        ("'\ud800'.encode()", "surrogates"),
        ("import sys; sys.stdout.close(); print(1)", "closed file"),
        ("import sys; sys.stdout = sys.stderr = None; 1 / 0", "ZeroDivisionError"),
        ("import sys; sys.excepthook = None; 1 / 0", "ZeroDivisionError"),
        ("import os; os.close(2); os.dup(1); 1 / 0", ""),
        ("import os; [os.close(n) for n in (0, 1, 2)]; 1 / 0", ""),
        ("import linecache; linecache.cache = None; 1 / 0", ""),
    ],
)
def test_a_cell_that_fails_leaves_the_context(rig: ContextRig, code: str, said: str) -> None:
    if "\ud800" in code:
        code = code.replace("\ud800", "\\ud800")
    cell = rig.run(code)
    assert said in cell.err
    assert cell.err.count("\n") < 120
    assert cell.status == 1
    cell = rig.run("import sys\nprint('out')\nprint('err', file=sys.stderr)")
    assert (cell.status, cell.out, cell.err) == (0, "out\n", "err\n")


def test_a_value_that_cannot_be_shown_says_so(rig: ContextRig) -> None:
    cell = rig.run("class X:\n    def __repr__(self): return 1 / 0\nX()")
    assert 'File "<cell 1>", line 2, in __repr__' in cell.err
    assert cell.err.splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_tracebacks_of_deep_recursion_are_short(rig: ContextRig) -> None:
    cell = rig.run("def f(n): g(n)\ndef g(n):\n    if n: f(n - 1)\n    else: 1 / 0\nf(200)")
    assert "frames are left out]" in cell.err
    assert cell.err.count("\n") < 130
    assert cell.err.splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_await_at_the_top(rig: ContextRig) -> None:
    rig.run("import asyncio\nasync def f(x):\n    await asyncio.sleep(0)\n    return x")
    assert rig.run("await f(3)").out == "3\n"
    assert rig.run("async with asyncio.Lock() as lock:\n    print(await f(4))").out == "4\n"
    assert rig.run("task = asyncio.ensure_future(f(5)) if await f(1) else 0").status == 0
    assert rig.run("await task").out == "5\n"
    assert rig.run("asyncio.run(f(6))").out == "6\n"
    assert rig.run("await f(7)").out == "7\n"
    cell = rig.run("await f(1 / 0)")
    assert (cell.status, cell.err.splitlines()[-1]) == (1, "ZeroDivisionError: division by zero")


def test_programs_of_a_cell_have_its_streams_and_no_more(rig: ContextRig) -> None:
    code = (
        "import os\nprint('first', flush=True)\n"
        "os.system('echo shell; head -n 1; echo e >&2')\n"
        "print(os.popen('ls /proc/self/fd | wc -l').read().strip())"
    )
    cell = rig.run(code, stdin=b"in\n")
    assert (cell.out.splitlines()[:3], cell.err) == (["first", "shell", "in"], "e\n")
    assert cell.out.splitlines()[-1] == "4"


def test_input_is_that_of_the_cell(rig: ContextRig) -> None:
    assert rig.run("input('name? ')", stdin=b"Ada\nleft over\n").out == "name? 'Ada'\n"
    assert rig.run("input()", stdin=b"Bob\n").out == "'Bob'\n"


def test_flood(rig: ContextRig) -> None:
    cell = rig.run("import sys\nfor n in range(200): print('x' * 99999)")
    assert (cell.status, len(cell.out)) == (0, 200 * 100000)


def test_future_statements_stay(rig: ContextRig) -> None:
    rig.run("from __future__ import annotations")
    assert rig.run("def f(x: nothing): pass\nprint(f.__annotations__)").out == "{'x': 'nothing'}\n"


def test_magics_and_commands(rig: ContextRig, shell: str) -> None:
    if shell != "IPython":
        pytest.skip("magics are IPython's")
    assert rig.run("x = 'a b'\n!echo {x} $$HOME").out == f"a b {rig.home}\n"
    assert rig.run("lines = !echo one; echo two\nprint(lines)").out == "['one', 'two']\n"
    assert rig.run("%cd -q /usr\n%pwd").out == "'/usr'\n"
    assert rig.run("%%bash\necho from bash").out == "from bash\n"
    assert "per loop" in rig.run("%timeit -n1 -r1 pass").out
    assert rig.run("%%time\ny = 3").status == 0
    assert rig.run("y").out == "3\n"
    cell = rig.run("%nothing")
    assert (cell.status, cell.err) == (1, "UsageError: Line magic function `%nothing` not found.\n")
    assert rig.run("%%capture c\nprint(5)").out == ""
    assert rig.run("print(c.stdout)").out == "5\n\n"
    assert "Docstring" in rig.run("len?").out
    cell = rig.run("%%time\n1 / 0")
    assert cell.err.splitlines()[1].startswith('  File "<')
    cell = rig.start("!echo runs; sleep 1000\nprint('not reached')")
    rig.wait(cell, until=b"runs\n")
    rig.interrupt()
    ended = rig.wait(cell)
    assert (ended.status, ended.out) == (1, "runs\n")
    assert ended.err.splitlines()[-1] == "KeyboardInterrupt"
    assert not list(rig.home.iterdir())


def test_notebook_lines_run_in_any_shell(rig: ContextRig, shell: str) -> None:
    assert rig.run("x = 'a b'\nif x: # !\n    !echo {x}").out == "a b\n"
    assert rig.run("!echo last").out == "last\n"
    assert rig.run("lines = !echo one; echo two\nprint(lines)").out == "['one', 'two']\n"
    assert rig.run("%cd /usr\nimport os; print(os.getcwd())").out.endswith("/usr\n")
    cell = rig.run("x = 1\n!true\n1 / 0")
    assert '", line 3' in cell.err
    cell = rig.run("!true\nx = )")
    assert (cell.status, "SyntaxError" in cell.err) == (1, True)
    if shell == "plain":
        cell = rig.run("%timeit x")
        assert (cell.status, cell.err.count("\n")) == (1, 1)
        assert "'%timeit x' works in a notebook only. Write it in plain Python" in cell.err


def test_what_is_printed_is_not_kept_in_memory(rig: ContextRig, shell: str) -> None:
    if shell != "IPython":
        pytest.skip("only IPython keeps it")
    rig.run("print('x' * 100000)")
    code = "import sys\nkept = get_ipython().history_manager\n"
    code += (
        "print(sum(map(len, getattr(kept, 'outputs', {}).values())), 'write' in vars(sys.stdout))"
    )
    assert rig.run(code).out == "0 False\n"

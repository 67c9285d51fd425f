# SPDX-License-Identifier: Apache-2.0
"""Contexts of Python (kit/guest/context.python): state, streams, errors and their ends.

TESTED_PYTHONS names more interpreters, separated by colons: other versions, and those with
IPython, which are tested with its shell and without.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.context_rig import ContextRig
from tests.support.waiting import until

PYTHONS = [python for python in os.environ.get("TESTED_PYTHONS", "").split(":") if python]


def _has_ipython(python: str) -> bool:
    argv = [python, "-c", "import importlib.util as u; print(u.find_spec('IPython'))"]
    return subprocess.run(argv, capture_output=True, check=True).stdout != b"None\n"


@pytest.fixture(params=["plain", "IPython"])
def shell(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[sys.executable, *PYTHONS])
def rig(request: pytest.FixtureRequest, shell: str, tmp_path: Path) -> Iterator[ContextRig]:
    if shell == "IPython" and not _has_ipython(request.param):
        pytest.skip(f"{request.param} lacks IPython: TESTED_PYTHONS names one that has it")
    environment = {} if shell == "IPython" else {"WAGGLE_PLAIN": "1"}
    with ContextRig(tmp_path, request.param, **environment) as rig:
        yield rig


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
    cell = rig.run("try:\n    f(0)\nexcept ZeroDivisionError as error:\n    raise KeyError('k') from error")
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
    ("code", "said"),
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


def test_an_interrupt_ends_the_cell_and_nothing_else(rig: ContextRig) -> None:
    rig.run("import asyncio, subprocess, sys, time\nx = 1")
    for code in (
        "time.sleep(1000)",
        "await asyncio.sleep(1000)",
        "while True: pass",
        "async def f():\n    while True: pass\nawait f()",
        "subprocess.run(['sleep', '1000'])",
        "input()",
        "sys.stdin.read()",
        "import threading; threading.Event().wait()",
    ):
        cell = rig.start("print('runs', flush=True)\n" + code)
        assert rig.wait(cell, until=b"runs\n").out == "runs\n"
        rig.interrupt()
        ended = rig.wait(cell)
        assert ended.status == 1, code
        assert ended.err.splitlines()[-1] == "KeyboardInterrupt", ended.err
        assert "CancelledError" not in ended.err
        assert "asyncio" not in ended.err.replace(code, ""), ended.err
    assert rig.run("x").out == "1\n"


def test_an_interrupt_between_cells_is_ignored(rig: ContextRig) -> None:
    assert rig.run("1").status == 0
    for n in range(20):
        rig.interrupt()
        assert rig.run(f"print({n})").status in (0, 1)
    rig.run("import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)")
    rig.interrupt()
    assert rig.run("print('alive')").out == "alive\n"
    assert rig.printed == ""


def test_a_cell_may_ignore_interrupts_for_itself_only(rig: ContextRig) -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('runs', flush=True)\ninput()"
    cell = rig.start(code)
    rig.wait(cell, until=b"runs\n")
    rig.interrupt()
    assert rig.wait(cell, stdin=b"over\n").status == 0
    cell = rig.start("print('runs', flush=True)\nimport time\ntime.sleep(1000)")
    rig.wait(cell, until=b"runs\n")
    rig.interrupt()
    assert rig.wait(cell).status == 1


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("exit()", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("raise SystemExit('over')", 1, "over\n"),
        ("import atexit; atexit.register(print, 'last')\nimport sys\nsys.exit(256 + 2)", 2, ""),
        ("import os; os._exit(4)", 4, ""),
        ("import threading, time, sys\n"
         "threading.Thread(target=time.sleep, args=[1000]).start()\nsys.exit(5)", 5, ""),
        ("async def f(): raise SystemExit(6)\nawait f()", 6, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
    ],
)  # fmt: skip
def test_leaving_ends_the_driver(rig: ContextRig, code: str, status: int, said: str) -> None:
    cell = rig.run(code)
    assert (cell.status, rig.driver.wait(10), cell.err) == (None, status, said)
    assert cell.out == ("last\n" if "last" in code else "")


def test_the_end_of_requests_is_the_end(rig: ContextRig) -> None:
    assert rig.run("1").status == 0
    rig.end_requests()
    assert rig.driver.wait(10) == 0


def test_a_forked_child_neither_answers_nor_goes_on(rig: ContextRig) -> None:
    code = (
        "import os\npid = os.fork()\n"
        "if pid: print(os.WEXITSTATUS(os.waitpid(pid, 0)[1]))\nelse: print('child')\n"
    )
    assert rig.run(code).out == "child\n0\n"
    assert rig.run(code.replace("print('child')", "1 / 0")).out == "1\n"
    assert rig.run(code.replace("print('child')", "raise SystemExit(7)")).out == "7\n"
    assert rig.run("await __import__('asyncio').sleep(0)\n" + code).out == "child\n0\n"
    assert rig.run("print('alive')").out == "alive\n"


@pytest.mark.anyio
async def test_a_daemon_holds_nothing_of_the_context(rig: ContextRig) -> None:
    code = (
        "import os, time\nif not os.fork():\n    os.setsid()\n    if os.fork(): os._exit(0)\n"
        "    open('daemon', 'w').write(str(os.getpid())); time.sleep(1000)\n"
    )
    assert rig.run(code).status == 0
    await until((rig.work / "daemon").exists)
    await until(lambda: (rig.work / "daemon").read_text() != "")
    daemon = int((rig.work / "daemon").read_text())
    try:
        links = [os.readlink(link) for link in Path(f"/proc/{daemon}/fd").iterdir()]
        assert not [link for link in links if "requests" in link or "answers" in link]
        assert rig.run("print('alive')").out == "alive\n"
    finally:
        os.kill(daemon, signal.SIGKILL)


@pytest.mark.anyio
async def test_threads_print_to_the_context_between_cells(rig: ContextRig) -> None:
    code = (
        "import threading, os\ngo = threading.Event()\n"
        "def f():\n    go.wait()\n    os.stat('.')\n    print('later')\n"
        "thread = threading.Thread(target=f); thread.start()"
    )
    assert rig.run(code).out == ""
    assert rig.run("go.set(); thread.join()").out == "later\n"
    rig.run("threading.Timer(0.01, lambda: print('between')).start()")
    await until(lambda: rig.printed == "between\n")
    assert rig.run("print('cell')").out == "cell\n"


def test_functions_of_cells_go_to_other_processes(rig: ContextRig) -> None:
    code = (
        "import pickle, multiprocessing, inspect, concurrent.futures as futures\n"
        "class A: pass\ndef double(x): return 2 * x\n"
        "print(type(pickle.loads(pickle.dumps(A()))) is A, inspect.getsource(double))\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(double, [1, 2]))\n"
        "if multiprocessing.get_start_method() == 'fork':\n"
        "    with futures.ProcessPoolExecutor(1) as pool: print(list(pool.map(double, [3])))"
    )
    cell = rig.run(code)
    assert cell.out == "True def double(x): return 2 * x\n\n[2, 4]\n[6]\n", cell.err
    assert rig.run("print('alive')").out == "alive\n"


def test_programs_of_a_cell_have_its_streams_and_no_more(rig: ContextRig) -> None:
    code = (
        "import os, subprocess\nprint('first', flush=True)\nos.system('echo shell; head -n 1; echo e >&2')\n"
        "print(os.popen('ls /proc/self/fd | wc -l').read().strip())"
    )
    cell = rig.run(code, stdin=b"in\n")
    assert (cell.out.splitlines()[:3], cell.err) == (["first", "shell", "in"], "e\n")
    assert cell.out.splitlines()[-1] == "4"


def test_input_is_that_of_the_cell(rig: ContextRig) -> None:
    assert rig.run("input('name? ')", stdin=b"Ada\nleft over\n").out == "name? 'Ada'\n"
    assert rig.run("input()", stdin=b"Bob\n").out == "'Bob'\n"


def test_requests_that_are_wrong_are_not_answered(rig: ContextRig) -> None:
    name = str(uuid.uuid4())
    rig.ask(b"\n\0\nx y\n" + b"z" * 5000 + b"\n" + f"{name} 1 relative\n".encode())
    assert rig.run("print(1)").out == "1\n"
    assert rig.answer_to(f"{name} 999999999 {rig.work}\n".encode()) == f"{name} 1\n"
    assert rig.answer_to(f"{name} {os.getpid()} /none\n".encode()) == f"{name} 1\n"
    assert rig.run("print(1)").out == "1\n"


def test_the_reader_of_a_cell_may_go(rig: ContextRig) -> None:
    cell = rig.start("print('runs', flush=True)\ninput()\nfor n in range(9999): print('x' * 99)")
    rig.wait(cell, until=b"runs\n")
    rig.abandon(cell)
    cell = rig.run("import signal\nsignal.signal(signal.SIGPIPE, signal.SIG_DFL)\nprint('alive')")
    assert cell.out == "alive\n"


def test_copies_have_random_numbers_of_their_own(rig: ContextRig) -> None:
    rig.run("import random\nfirst = random.random()")
    place = rig.work.parent / "second"
    with ContextRig(place, rig.python, **rig.environment) as second:
        assert second.run("import random\nprint(random.random())").out != rig.run("print(first)").out


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
    assert [line.strip() for line in cell.err.splitlines() if "File" in line][0].startswith(
        'File "<'
    )
    cell = rig.start("!echo runs; sleep 1000\nprint('not reached')")
    rig.wait(cell, until=b"runs\n")
    rig.interrupt()
    ended = rig.wait(cell)
    assert (ended.status, ended.out) == (1, "runs\n")
    assert ended.err.splitlines()[-1] == "KeyboardInterrupt"
    assert not list(rig.home.iterdir())

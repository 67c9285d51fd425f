# SPDX-License-Identifier: Apache-2.0
"""Contexts of Python: interrupts, ends, and the processes and threads that cells start."""

from __future__ import annotations

import os
import signal
import threading
import uuid
from pathlib import Path

import pytest
from tests.support.context_rig import ContextRig
from tests.support.waiting import until


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
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    cell = rig.start(code + "print('runs', flush=True)\ninput()")
    rig.wait(cell, until=b"runs\n")
    rig.interrupt()
    assert rig.wait(cell, stdin=b"over\n").status == 0
    cell = rig.start("print('runs', flush=True)\nimport time\ntime.sleep(1000)")
    rig.wait(cell, until=b"runs\n")
    rig.interrupt()
    assert rig.wait(cell).status == 1


@pytest.mark.parametrize(
    "code, status, said",
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
        links = [str(link.readlink()) for link in Path(f"/proc/{daemon}/fd").iterdir()]
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
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    print(pool.map(double, [1, 2]))\n"
        "if multiprocessing.get_start_method() == 'fork':\n"
        "    with futures.ProcessPoolExecutor(1) as pool: print(list(pool.map(double, [3])))"
    )
    cell = rig.run(code)
    assert cell.out == "True def double(x): return 2 * x\n\n[2, 4]\n[6]\n", cell.err
    assert rig.run("print('alive')").out == "alive\n"


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
        assert (
            second.run("import random\nprint(random.random())").out != rig.run("print(first)").out
        )


def test_a_spare_says_when_it_is_ready_and_its_first_cell_is_the_first(
    rig: ContextRig, tmp_path: Path
) -> None:
    with ContextRig(tmp_path / "second", rig.python, warm="--warm", **rig.environment) as second:
        cell = second.run("1 / 0")
    assert '"<cell 1>"' in cell.err
    assert second.printed == "ready\n"


@pytest.mark.parametrize("pause", [0.003, 0])
def test_interrupts_at_any_time_leave_the_context(rig: ContextRig, pause: float) -> None:
    rig.run("import asyncio\nx = 1\nclass Rich:\n    def _repr_html_(self): return 'x' * 300000")
    cells = ("x", "Rich()", "await asyncio.sleep(0.001)", "sum(range(20000))", "1 / 0")
    over = threading.Event()

    def interrupt() -> None:
        while not over.wait(pause):
            rig.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        statuses = {rig.run(cell).status for cell in cells * 20}
    finally:
        over.set()
        thread.join()
    assert statuses <= {0, 1}
    assert rig.run("x").out == "1\n"
    assert rig.run("await asyncio.sleep(0, 2)").out == "2\n"
    assert rig.printed == ""

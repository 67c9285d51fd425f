# SPDX-License-Identifier: Apache-2.0
"""Live Python on a real machine: state, output and its places, interrupts, ends, and bad cells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from tests.support.contexts import PYTHON, Interpreter, image_lab
from tests.support.vm import Parts, root

from waggle.domain.programs import GuestUser
from waggle.service.local.guest import LocalGuest

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
async def python(
    tmp_path_factory: pytest.TempPathFactory, guest_parts: Parts
) -> AsyncGenerator[LocalGuest]:
    """A machine with the python image, which has no IPython."""
    async with image_lab(tmp_path_factory.mktemp("lab"), guest_parts, "python") as lab:
        yield await lab.guest("python", memory=384)


@pytest.fixture(scope="module")
async def shared(python: LocalGuest) -> AsyncGenerator[Interpreter]:
    """An interpreter for all tests that leave it alive."""
    made = await Interpreter.begin(python)
    yield made
    await made.end()


@pytest.fixture
async def own(python: LocalGuest) -> AsyncGenerator[Interpreter]:
    """An interpreter that a test may end."""
    made = await Interpreter.begin(python)
    yield made
    await made.end()


async def test_state_imports_functions_and_the_directory_stay(shared: Interpreter) -> None:
    await shared.prints("import os\nx = 41\ndef f(n): return n + x\nos.chdir('/tmp')")
    assert await shared.prints("x += 1; print(f(0), os.getcwd())") == "42 /tmp\n"
    await shared.prints("os.chdir(os.path.expanduser('~'))")


async def test_the_last_value_and_displays_have_their_places_in_the_output(
    shared: Interpreter,
) -> None:
    cell = await shared.cell(
        "class Bold:\n"
        "    def _repr_html_(self): return '<b>x</b>'\n"
        "print('before')\ndisplay(Bold())\nprint('after')\n'last'"
    )
    assert (cell.code, cell.out) == (0, "before\nafter\n'last'\n")
    (shown,) = cell.displays
    assert shown.data["text/html"] == "<b>x</b>"
    assert shown.stdout_at == len("before\n")


async def test_an_error_keeps_the_state_and_is_without_colours(shared: Interpreter) -> None:
    cell = await shared.cell("y = 5\n1/0")
    assert cell.code == 1
    assert "ZeroDivisionError" in cell.err
    assert "\x1b" not in cell.err
    assert await shared.prints("print(y)") == "5\n"


async def test_await_at_the_top(shared: Interpreter) -> None:
    assert await shared.prints("import asyncio\nawait asyncio.sleep(0, 7)") == "7\n"


async def test_variables_directory_and_input_of_a_call(shared: Interpreter) -> None:
    cell = await shared.cell(
        "import os; print(os.environ['GIVEN'], os.getcwd(), input(), input())",
        env={"GIVEN": "a b'c\"$\né"},
        cwd="/usr",
        stdin=b"one\ntwo\nrest",
    )
    assert (cell.code, cell.out) == (0, "a b'c\"$\né /usr one two\n")
    assert await shared.prints("print(len(os.environ['GIVEN']), os.getcwd())") == "9 /usr\n"
    cell = await shared.cell("print('ran')", cwd="/no/such")
    assert (cell.code, cell.out) == (1, "")
    assert "/no/such" in cell.err
    await shared.prints("os.chdir('/home/sandbox')")


async def test_input_without_stdin_fails_at_once(shared: Interpreter) -> None:
    cell = await shared.cell("input()")
    assert (cell.code, cell.result.timed_out) == (1, False)
    assert "EOFError" in cell.err
    assert cell.result.duration < 10


async def test_a_timeout_interrupts_and_keeps_the_state(shared: Interpreter) -> None:
    await shared.prints("kept = 1")
    cell = await shared.cell("import time\nprint('on', flush=True)\ntime.sleep(600)", timeout=2)
    assert (cell.result.timed_out, cell.result.context_ended) == (True, False)
    assert "KeyboardInterrupt" in cell.err
    assert await shared.prints("print(kept)") == "1\n"


async def test_an_interrupt_in_a_subprocess_ends_it_and_keeps_the_state(
    shared: Interpreter,
) -> None:
    await shared.prints("kept = 1")
    cell = await shared.cell("import subprocess\nsubprocess.run(['sleep', '600'])", timeout=2)
    assert (cell.result.timed_out, cell.result.context_ended) == (True, False)
    assert await shared.prints("print(kept)") == "1\n"
    assert await root(shared.guest, "pgrep -f 'sleep 600' | wc -l") in ("0\n", "1\n")


async def test_cells_run_in_the_order_in_which_they_came(shared: Interpreter) -> None:
    first = shared.start("import time\nprint('first', flush=True)\ntime.sleep(2)\norder = [1]")
    await first.printed("first")
    second = shared.start("order.append(2)\nprint(order)")
    cell, other = await asyncio.gather(first.ended(), second.ended())
    assert (cell.code, other.out) == (0, "[1, 2]\n")


async def test_a_flood_is_cut_and_the_state_stays(shared: Interpreter) -> None:
    await shared.prints("kept = 1")
    cell = await shared.cell(
        "import sys\nfor _ in range(100): sys.stdout.write('y' * 1_000_000)\nprint('END')",
        timeout=300,
    )
    assert cell.code == 0
    assert cell.result.stdout.total == 100_000_004
    assert cell.result.stdout.tail.endswith(b"END\n")
    assert await shared.prints("print(kept)") == "1\n"


async def test_ten_thousand_displays_are_bounded(shared: Interpreter) -> None:
    await shared.prints("kept = 1")
    cell = await shared.cell(
        "class Html:\n    def _repr_html_(self): return 'h' * 100\n"
        "for _ in range(10_000): display(Html())",
        timeout=300,
    )
    assert cell.code == 0
    assert 0 < len(cell.displays) <= 10_000
    assert await shared.prints("print(kept)") == "1\n"


BAD = {
    "recursion": "def f(): return f()\nf()",
    "closes its output": "import os\nos.close(1)",
    "closes everything": "import os\nfor fd in range(100):\n    try: os.close(fd)\n"
    "    except OSError: pass",
    "closes sys.stdout": "import sys\nsys.stdout.close(); sys.stderr.close()",
    "replaces sys.stdout": "import sys\nsys.stdout = None\nsys.stderr = 7\n1/0",
    "changes signals": "import signal\nsignal.signal(signal.SIGINT, signal.SIG_DFL)\n"
    "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))\n"
    "signal.pthread_sigmask(signal.SIG_UNBLOCK, range(1, 32))",
    "a syntax error": "def f(:",
    "no text": "\x01\x02",
    "a fork that fails": "import os\nif os.fork() == 0: raise RuntimeError\nos.wait()",
    "a fork that exits": "import os, sys\nif os.fork() == 0: sys.exit(3)\nos.wait()",
    "a daemon": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
    "        time.sleep(5)\n        print('daemon')\n    os._exit(0)\nos.wait()",
    "a thread that prints": "import threading, time\n"
    "t = threading.Thread(target=lambda: (time.sleep(1), print('late')))\nt.start()",
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_cell_keeps_the_state(shared: Interpreter, name: str) -> None:
    await shared.prints("state = 7")
    cell = await shared.cell(BAD[name])
    assert cell.code in (0, 1)
    assert await shared.prints("print(state, flush=True)") == "7\n"
    assert not shared.ends.done()


async def test_a_server_that_a_cell_starts_goes_on(shared: Interpreter) -> None:
    await shared.prints(
        "import subprocess, sys\n"
        "server = subprocess.Popen([sys.executable, '-m', 'http.server', '8123'],"
        " stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)"
    )
    code = (
        "import time, urllib.request\nfor _ in range(200):\n"
        "    try: print(urllib.request.urlopen('http://127.0.0.1:8123').status); break\n"
        "    except OSError: time.sleep(0.1)"
    )
    printed = await shared.prints(code)  # a thread of an earlier cell may print, too
    assert printed.endswith("200\n")
    await shared.prints("server.kill(); server.wait()")


ENDS = {
    "exit": ("exit(3)", 3, None),
    "sys.exit": ("import sys; sys.exit('words')", 1, None),
    "os._exit": ("import os; os._exit(4)", 4, None),
    "abort": ("import os; os.abort()", None, "SIGABRT"),
    "segfault": ("import ctypes; ctypes.string_at(0)", None, "SIGSEGV"),
    "kill": ("import os; os.kill(os.getpid(), 9)", None, "SIGKILL"),
}


@pytest.mark.parametrize("name", ENDS)
async def test_an_interpreter_that_ends_takes_its_cell_along(own: Interpreter, name: str) -> None:
    code, status, signal = ENDS[name]
    cell = await own.cell(f"print('so far', flush=True)\n{code}")
    assert cell.result.context_ended
    assert "so far\n" in cell.out
    ended = await own.ends
    assert (ended.exit_code, ended.signal) == (status, signal)
    late = await own.cell("print(1)")
    assert late.result.context_ended


async def test_out_of_memory_ends_the_whole_interpreter(own: Interpreter) -> None:
    cell = await own.cell("a = []\nwhile True: a.append(bytearray(20_000_000))")
    assert cell.result.context_ended
    ended = await own.ends
    found = await own.guest.diagnose(own.job.command, ended)
    assert found is not None
    assert (ended.signal, found.code) == ("SIGKILL", "out_of_memory")


async def test_a_cell_that_ignores_interrupts_ends_with_its_interpreter(own: Interpreter) -> None:
    code = (
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "while True: time.sleep(1)"
    )
    await own.prints("1")  # so that the time is not over before it has begun
    cell = await own.cell(code, timeout=2)
    assert (cell.result.timed_out, cell.result.context_ended) == (True, True)
    assert (await own.ends).signal == "SIGKILL"


async def test_root_has_an_interpreter_of_its_own(python: LocalGuest) -> None:
    made = await Interpreter.begin(python, PYTHON, GuestUser.ROOT)
    code = "import os; print(os.getuid(), *map(os.environ.get, ('HOME', 'USER', 'LOGNAME')))"
    assert await made.prints(code) == "0 /root root root\n"
    assert (await made.cell("exit()")).result.context_ended
    await made.ends
    await made.end()

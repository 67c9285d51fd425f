# SPDX-License-Identifier: Apache-2.0
"""IPython in the images that have it on real machines: magics, and all that can be displayed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from tests.support.cells import ALL, Case, check
from tests.support.contexts import Interpreter, image_lab
from tests.support.vm import Parts

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(400)]


@asynccontextmanager
async def interpreter(
    factory: pytest.TempPathFactory, parts: Parts, image: str, memory: int
) -> AsyncGenerator[Interpreter]:
    async with image_lab(factory.mktemp("lab"), parts, image) as lab:
        made = await Interpreter.begin(await lab.guest(image, memory=memory))
        yield made
        await made.end()


@pytest.fixture(scope="module")
async def data(
    tmp_path_factory: pytest.TempPathFactory, guest_parts: Parts
) -> AsyncGenerator[Interpreter]:
    async with interpreter(tmp_path_factory, guest_parts, "data", 1024) as made:
        yield made


@pytest.fixture(scope="module")
async def python(
    tmp_path_factory: pytest.TempPathFactory, guest_parts: Parts
) -> AsyncGenerator[Interpreter]:
    async with interpreter(tmp_path_factory, guest_parts, "python", 512) as made:
        yield made


async def test_it_is_ipython(data: Interpreter) -> None:
    await _is_ipython(data)


async def test_it_is_ipython_in_the_python_image(python: Interpreter) -> None:
    await _is_ipython(python)
    code = "import glob, IPython; glob.glob(IPython.__path__[0] + '/**/*.pyc', recursive=True)[0]"
    assert "IPython" in await python.prints(code)
    assert await python.prints("await __import__('asyncio').sleep(0, 'value')") == "'value'\n"
    await python.prints("%cd /usr")
    assert await python.prints("import os\nprint(os.getcwd())") == "/usr\n"


async def _is_ipython(shell: Interpreter) -> None:
    cell = await shell.cell("x = 41\n!echo {x + 1}\n%pwd\nget_ipython().__class__.__mro__[-1]")
    assert cell.code == 0, cell.err
    assert "42\n" in cell.out
    cell = await shell.cell("%timeit -n1 -r1 sum(range(10))\n_ = 1\nx?")
    assert cell.code == 0, cell.err
    assert "\x1b" not in cell.out + cell.err


async def test_an_interrupt_while_it_starts_leaves_it(python: Interpreter) -> None:
    """IPython takes seconds here: until it is ready, only the code that waits for it ends."""
    made = await Interpreter.begin(python.guest)
    for _ in range(2):
        cell = await made.cell("x = 1", timeout=0.3)
        assert not cell.result.context_ended, (cell, made.said)
    assert await made.prints("print('ready')") == "ready\n"
    await made.end()


async def test_a_traceback_is_without_colours_and_keeps_the_state(data: Interpreter) -> None:
    await data.prints("kept = 3")
    cell = await data.cell("def f(): return 1 / 0\nf()")
    assert cell.code == 1
    assert "ZeroDivisionError: division by zero" in cell.err
    assert "\x1b" not in cell.err
    assert await data.prints("print(kept)") == "3\n"


async def test_a_timeout_interrupts_and_keeps_the_state(data: Interpreter) -> None:
    await data.prints("kept = 3")
    cell = await data.cell("import time\nwhile True: time.sleep(1)", timeout=2)
    assert (cell.result.timed_out, cell.result.context_ended) == (True, False), (cell, data.said)
    cell = await data.cell("while True: pass", timeout=2)
    assert (cell.result.timed_out, cell.result.context_ended) == (True, False), (cell, data.said)
    assert await data.prints("print(kept)") == "3\n"


@pytest.mark.parametrize("case", ALL, ids=[case.name.replace(" ", "-") for case in ALL])
async def test_what_is_displayed(data: Interpreter, case: Case) -> None:
    await data.cell("%reset -f")
    cell = await data.cell(case.code)
    if any(f"No module named '{name}" in cell.err for name in case.needs):
        pytest.skip(f"the image lacks one of {case.needs}")
    assert cell.code == 0, cell.err
    assert cell.dropped == 0
    shown = [{"data": item.data, "chart": item.chart} for item in cell.displays]
    check(case, cell.out, cell.err, shown)


async def test_a_backend_for_no_screen_shows_figures_all_the_same(data: Interpreter) -> None:
    cell = await data.cell(
        "import matplotlib\nmatplotlib.use('Agg')\nimport matplotlib.pyplot as plt\n"
        "plt.plot([1, 2])\nplt.show()"
    )
    assert cell.code == 0, cell.err
    assert ["image/png" in item.data for item in cell.displays] == [True]
    assert "waggle" not in cell.err


async def test_a_figure_has_its_place_between_prints(data: Interpreter) -> None:
    cell = await data.cell(
        "import matplotlib.pyplot as plt\nprint('before')\nplt.plot([1, 2])\nplt.show()\n"
        "print('after')"
    )
    assert (cell.code, cell.out) == (0, "before\nafter\n")
    (shown,) = cell.displays
    assert shown.stdout_at == len("before\n")
    assert shown.chart is not None

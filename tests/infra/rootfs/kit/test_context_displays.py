# SPDX-License-Identifier: Apache-2.0
"""What cells and plain runs of Python display (kit/guest/display.python and those beside it).

TESTED_PYTHONS names interpreters, separated by colons, that have IPython and the packages; the
same cells run in a guest, whose image has them (tests/vm).
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.cells import ALL, OWN_BACKEND, Case, check, pixels
from tests.support.context_rig import Cell, ContextRig, lay_runners, records

PYTHONS = [python for python in os.environ.get("TESTED_PYTHONS", "").split(":") if python]
BY_ITSELF = sys.executable


@functools.cache
def _lacks(python: str, modules: tuple[str, ...]) -> str:
    code = (
        "import sys, importlib.util as u; print(*[m for m in sys.argv[1:] if not u.find_spec(m)])"
    )
    argv = [python, "-c", code, *modules]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def _need(python: str, *modules: str) -> None:
    if lacking := _lacks(python, modules):
        pytest.skip(f"{python} lacks {lacking}: TESTED_PYTHONS names one that has it")


@pytest.fixture(scope="module", params=[BY_ITSELF, *PYTHONS])
def python(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=["IPython", "plain"])
def rig(
    request: pytest.FixtureRequest, python: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ContextRig]:
    environment = {"MPLBACKEND": "agg", "MPLCONFIGDIR": "/tmp/waggle-tests-matplotlib"}
    if request.param == "IPython":
        _need(python, "IPython")
    else:
        environment["WAGGLE_PLAIN"] = "1"
    with ContextRig(tmp_path_factory.mktemp("context"), python, **environment) as rig:
        yield rig


def _plain_run(python: str, place: Path, code: str, **variables: str) -> Cell:
    apart = lay_runners(place / "1a2b3c4d")
    work = place / "work"
    work.mkdir(exist_ok=True)
    (apart / "main.py").write_text(code)
    with (place / "displays").open("w+b") as display:
        argv = ["/bin/sh", "-c", 'exec "$@" 3>"$0"', display.name, python]
        ended = subprocess.run(
            [*argv, str(apart / "runner.py"), str(apart / "main.py")],
            cwd=work,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(place),
                "PYTHONDONTWRITEBYTECODE": "1",
                "MPLBACKEND": "agg",
                **variables,
            },
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        found = records(display.read())
    return Cell(ended.returncode, ended.stdout, ended.stderr, found)


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_cells_display(rig: ContextRig, python: str, case: Case) -> None:
    _need(python, *case.needs)
    cell = rig.run(case.code)
    assert cell.status == 0, cell.err
    check(case, cell.out, cell.err, cell.displays)


@pytest.mark.parametrize("case", [c for c in ALL if c.is_plain_run], ids=lambda case: case.name)
def test_plain_runs_display(tmp_path: Path, python: str, case: Case) -> None:
    _need(python, *case.needs)
    ended = _plain_run(python, tmp_path, case.code, WAGGLE_DISPLAY="3")
    assert ended.status == 0, ended.err
    check(case, ended.out, ended.err, ended.displays)


def test_a_plain_run_without_the_variable_is_as_ever(tmp_path: Path, python: str) -> None:
    code = "import builtins, sys\n"
    code += "print([n for n in sys.modules if 'waggle' in n], hasattr(builtins, 'display'))"
    assert _plain_run(python, tmp_path, code).out == "[] False\n"


def test_a_plain_run_finds_descriptors_and_variables_as_ever(tmp_path: Path, python: str) -> None:
    code = "import os\nprint(os.open('/', os.O_RDONLY), 'WAGGLE_DISPLAY' in os.environ)"
    assert _plain_run(python, tmp_path, code, WAGGLE_DISPLAY="3").out == "3 False\n"


def test_the_last_value_is_displayed_as_notebooks_do(rig: ContextRig) -> None:
    rich = "class Rich:\n    def _repr_html_(self): return '<b>'\nRich()"
    assert [display["data"]["text/html"] for display in rig.run(rich).displays] == ["<b>"]
    assert not rig.run(rich + ";  # quiet").displays
    assert rig.run("[1][0]").out == "1\n"
    assert rig.run("_ + 1").out == "2\n"
    assert rig.run("x = 5").out == rig.run("None").out == rig.run("x;").out == ""
    assert rig.run("'''a\n;'''").out == "'a\\n;'\n"


def test_a_record_comes_after_what_was_printed_before(rig: ContextRig) -> None:
    code = (
        "import os, sys\nclass Rich:\n    def _repr_html_(self): return '<b>'\n"
        "sys.stdout.write('no line')\ndisplay(Rich())\nos._exit(0)"
    )
    with ContextRig(rig.work.parent / "second", rig.python, **rig.environment) as second:
        cell = second.run(code)
    assert (cell.status, cell.out, len(cell.displays)) == (None, "no line", 1)


def test_too_many_displays_are_counted_and_not_made(rig: ContextRig) -> None:
    code = (
        "made = 0\nclass Rich:\n    def _repr_html_(self):\n        global made\n"
        "        made += 1\n        return '<b>'\n"
        "for n in range(3000): display(Rich())\nprint(made)"
    )
    cell = rig.run(code)
    assert (cell.out, len(cell.displays)) == ("1000\n", 1000)
    assert cell.err == "waggle: 2000 more displays were left out; the most is 1000.\n"
    cell = rig.run("display(Rich())")
    assert (len(cell.displays), cell.err) == (1, "")


def test_chart_data_is_bounded(rig: ContextRig, python: str) -> None:
    _need(python, "matplotlib")
    code = (
        "import matplotlib.pyplot as plt\nfig, axes = plt.subplots(5, 5)\n"
        "for ax in axes.flat:\n    for n in range(30): ax.plot(range(50000))\nplt.show()"
    )
    (display,) = rig.run(code).displays
    charts = display["chart"]["charts"]
    assert len(charts) == 16
    assert {len(chart["series"]) for chart in charts} == {20}
    assert sum(len(s["x"]) for chart in charts for s in chart["series"]) <= 8000
    assert charts[0]["series"][0]["note"] == "every 2500. of 50000 points"
    assert pixels(display["data"]["image/png"]) < 2_100_000


def test_failing_chart_data_leaves_the_picture(rig: ContextRig, python: str) -> None:
    _need(python, "matplotlib")
    code = (
        "import matplotlib.pyplot as plt\nfig = plt.figure()\n"
        "fig.gca().get_title = lambda *_: 1 / 0\nplt.show()"
    )
    (display,) = rig.run(code).displays
    assert "image/png" in display["data"]
    assert "chart" not in display


def test_a_figure_that_cannot_be_drawn_is_an_error(rig: ContextRig, python: str) -> None:
    _need(python, "matplotlib")
    code = "import matplotlib.pyplot as plt\nplt.plot([1])\nline = plt.title('$\\\\frac{$')"
    for end in ("", "\nplt.show()"):
        cell = rig.run(code + end)
        assert (cell.status, cell.displays) == (1, []), cell.err
        assert "ValueError" in cell.err
    assert rig.run("plt.get_fignums()").out == "[]\n"


def test_other_processes_do_not_get_the_backend(rig: ContextRig, python: str) -> None:
    _need(python, "matplotlib")
    code = (
        "import subprocess, sys, matplotlib.pyplot\n"
        "print(subprocess.getoutput(sys.executable + "
        "' -c \"import matplotlib.pyplot as p; print(p.get_backend())\"'))"
    )
    assert rig.run(code).out.lower() == "agg\n"


def test_a_backend_that_the_cell_chose_is_left(rig: ContextRig, python: str) -> None:
    _need(python, "matplotlib")
    with ContextRig(rig.work.parent / "chosen", rig.python, **rig.environment) as chosen:
        cell = chosen.run(OWN_BACKEND)
    assert (cell.status, cell.displays) == (0, []), cell.err


def test_notebook_settings_of_matplotlib_are_taken(rig: ContextRig, python: str) -> None:
    _need(python, "matplotlib", "IPython")
    if "WAGGLE_PLAIN" in rig.environment:
        pytest.skip("magics are IPython's")
    code = (
        "%matplotlib inline\n%config InlineBackend.figure_format = 'retina'\n"
        "import matplotlib.pyplot as plt\nlines = plt.plot([1])"
    )
    cell = rig.run(code)
    assert (cell.status, len(cell.displays), cell.err) == (0, 1, "")


def test_displays_have_ids_for_updates(rig: ContextRig, python: str) -> None:
    _need(python, "IPython")
    if "WAGGLE_PLAIN" in rig.environment:
        pytest.skip("without its shell IPython has no updates")
    code = (
        "from IPython.display import HTML, display, clear_output\n"
        "handle = display(HTML('a'), display_id=True)\nclear_output(wait=True)\n"
        "handle.update(HTML('b'))"
    )
    first, second = rig.run(code).displays
    assert second["metadata"]["update"]
    assert first["metadata"]["display_id"] == second["metadata"]["display_id"]


def test_values(rig: ContextRig) -> None:
    """A display's data is text whatever an object says of itself."""
    code = (
        "class Odd:\n    def _repr_mimebundle_(self, **_):\n"
        "        return {'text/html': b'\\xff', 'application/x+json': {1: {2}}, 'text/x': 3,"
        " 'image/png': b'1'}\n"
        "display(Odd())"
    )
    (display,) = rig.run(code).displays
    data: dict[str, Any] = display["data"]
    assert data["text/html"] == "\ufffd"
    assert data["application/x+json"] == '{"1": [2]}'
    assert (data["text/x"], data["image/png"]) == ("3", b"1")

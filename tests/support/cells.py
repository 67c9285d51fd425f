# SPDX-License-Identifier: Apache-2.0
"""Cells of Python that display things, and what is expected of each.

Run by the driver on this machine, with an interpreter that has the packages, and in a guest, whose
image has them. A display is `{"data": {mime: text, or bytes of a picture}, "chart": {...}}`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Display = Mapping[str, Any]
PNG = "image/png"
MOST_PIXELS = 2_100_000


@dataclass(frozen=True)
class Case:
    """One cell. `displays` are the MIME types that each display has at least, in order."""

    name: str
    code: str
    needs: tuple[str, ...] = ()
    displays: tuple[tuple[str, ...], ...] = ()
    out: str = ""
    plain: tuple[str, ...] = ()
    """Parts of the text/plain of the first display."""
    chart: tuple[str, tuple[tuple[str, tuple[Any, ...], tuple[Any, ...]], ...]] | None = None
    """Type of the first display's chart; label, x and y of its series."""
    is_plain_run: bool = True
    """Whether the same code displays the same as a process of its own."""


def check(case: Case, out: str, err: str, displays: Sequence[Display]) -> None:
    """Assert that a cell that succeeded did what its case says."""
    assert out == case.out, err
    assert len(displays) == len(case.displays), (displays, err)
    for display, mimes in zip(displays, case.displays, strict=True):
        assert set(mimes) <= set(display["data"]), display["data"].keys()
        if PNG in mimes:
            assert 100 < pixels(display["data"][PNG]) <= MOST_PIXELS
    for part in case.plain:
        assert part in displays[0]["data"]["text/plain"]
    if case.chart is not None:
        kind, series = case.chart
        chart = displays[0]["chart"]
        assert chart["type"] == kind, chart
        found = tuple(
            (each["label"], tuple(each["x"]), tuple(each["y"])) for each in chart["series"]
        )
        assert found == series, chart


def pixels(png: bytes) -> int:
    """Return the pixels of a picture, from its header."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack_from(">II", png, 16)
    return width * height


_PLOT = "import matplotlib.pyplot as plt\n"
_MATPLOTLIB = ("matplotlib",)
_ONE_PNG = ((PNG, "text/plain"),)

FIGURES = (
    Case(
        "line",
        _PLOT
        + "plt.plot([1, 2, 3], [1.5, float('nan'), 4], label='a')\nplt.title('T')\nplt.show()",
        _MATPLOTLIB,
        _ONE_PNG,
        chart=("line", (("a", (1, 2, 3), (1.5, None, 4)),)),
    ),
    Case(
        "open at the end",
        _PLOT + "fig, ax = plt.subplots()\nbars = ax.bar(['x', 'y'], [1, 2], label='b')",
        _MATPLOTLIB,
        _ONE_PNG,
        chart=("bar", (("b", ("x", "y"), (1, 2)),)),
        is_plain_run=False,
    ),
    Case(
        "lying bars",
        _PLOT + "plt.barh(['x', 'y'], [1, 2])\nplt.show()",
        _MATPLOTLIB,
        _ONE_PNG,
        chart=("bar", (("", ("x", "y"), (1, 2)),)),
    ),
    Case(
        "scatter",
        _PLOT + "plt.scatter([1, 2], [3, 4], label='s')\nplt.show()",
        _MATPLOTLIB,
        _ONE_PNG,
        chart=("scatter", (("s", (1, 2), (3, 4)),)),
    ),
    Case(
        "pie",
        _PLOT + "plt.pie([1, 3], labels=['a', 'b'])\nplt.show()",
        _MATPLOTLIB,
        _ONE_PNG,
        chart=("pie", (("", ("a", "b"), (0.25, 0.75)),)),
    ),
    Case(
        "histogram",
        _PLOT + "plt.hist([1, 1, 2, 3], bins=2)\nplt.show()",
        _MATPLOTLIB,
        _ONE_PNG,
        chart=("hist", (("", (1.5, 2.5), (2, 2)),)),
    ),
    Case(
        "box",
        _PLOT + "plt.boxplot([[1, 2, 3, 4, 5]])\nplt.show()",
        _MATPLOTLIB,
        _ONE_PNG,
        chart=("box", (("1", ("low", "q1", "median", "q3", "high"), (1, 2, 3, 4, 5)),)),
    ),
    Case(
        "picture",
        _PLOT + "plt.imshow([[1, 2], [3, 4]])\nplt.show()",
        _MATPLOTLIB,
        _ONE_PNG,
        chart=("image", (("", (), ()),)),
    ),
    Case(
        "dates",
        _PLOT
        + "import datetime\nplt.plot([datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 3, 4)],"
        " [1, 2])\nplt.show()",
        _MATPLOTLIB,
        _ONE_PNG,
        chart=("line", (("", ("2026-01-02", "2026-01-03T04:00:00"), (1, 2)),)),
    ),
    Case(
        "two figures",
        _PLOT + "for n in (1, 2):\n    plt.figure()\n    plt.plot([n])\nplt.show()",
        _MATPLOTLIB,
        _ONE_PNG * 2,
    ),
    Case(
        "displayed once",
        _PLOT + "fig = plt.figure()\nfig.gca().plot([1, 2])\ndisplay(fig)",
        _MATPLOTLIB,
        _ONE_PNG,
    ),
    Case(
        "shown by its method",
        _PLOT + "fig, ax = plt.subplots()\nfig.show()",
        _MATPLOTLIB,
        _ONE_PNG,
    ),
    Case(
        "huge",
        _PLOT + "plt.figure(figsize=(300, 200), dpi=300)\nplt.text(9, 9, 'far')\nplt.show()",
        _MATPLOTLIB,
        _ONE_PNG,
    ),
    Case(
        "frame drawn",
        _PLOT + "import pandas\npandas.DataFrame({'a': [1, 2], 'b': [3, 4]}, index=['p', 'q'])"
        ".plot.bar()\nplt.show()",
        ("matplotlib", "pandas"),
        _ONE_PNG,
        chart=("bar", (("a", ("p", "q"), (1, 2)), ("b", ("p", "q"), (3, 4)))),
    ),
    Case(
        "frame of days",
        _PLOT + "import pandas\nframe = pandas.DataFrame({'a': [1, 2]},"
        " index=pandas.date_range('2026-01-01', periods=2))\nframe.plot()\nplt.show()",
        ("matplotlib", "pandas"),
        _ONE_PNG,
        chart=("line", (("a", ("2026-01-01", "2026-01-02"), (1, 2)),)),
    ),
    Case(
        "nothing on it",
        _PLOT + "plt.figure()\nplt.show()",
        _MATPLOTLIB,
        out="<Figure of 640x480 pixels with 0 Axes>\n",
    ),
)

OWN_BACKEND = (
    "import matplotlib\nmatplotlib.use('agg')\n"
    + _PLOT
    + "lines = plt.plot([1])\nlines[0].get_label()"
)
"""Chooses a backend that shows nothing, for good."""

FRAMES = (
    Case(
        "pandas",
        "import pandas\nframe = pandas.DataFrame({f'c{n}': range(100) for n in range(30)})\n"
        "display(frame)",
        ("pandas",),
        (("text/plain", "text/html"),),
        plain=("[100 rows x 30 columns]", "c29", "..."),
    ),
    Case(
        "pandas series",
        "import pandas\ndisplay(pandas.Series([1, 2], name='s'))",
        ("pandas",),
        out="0    1\n1    2\nName: s, dtype: int64\n",
    ),
    Case(
        "polars",
        "import polars\ndisplay(polars.DataFrame({'a': list(range(100))}))",
        ("polars",),
        (("text/plain", "text/html"),),
        plain=("shape: (100, 1)",),
    ),
)

PICTURES = (
    Case(
        "pillow",
        "from PIL import Image\nImage.new('CMYK', (3000, 2000)).show()",
        ("PIL",),
        _ONE_PNG,
        plain=("3000x2000",),
    ),
    Case(
        "plotly",
        "import plotly.graph_objects as go\n"
        "go.Figure(go.Bar(x=['a', 'b'], y=[1, 2], name='n')).show()",
        ("plotly",),
        (("application/vnd.plotly.v1+json", "text/plain"),),
        chart=("bar", (("n", ("a", "b"), (1, 2)),)),
    ),
    Case(
        "plotly displayed",
        "import numpy, plotly.graph_objects as go\n"
        "display(go.Figure(go.Scatter(y=numpy.array([1.5, numpy.nan]))))",
        ("plotly", "numpy"),
        (("application/vnd.plotly.v1+json",),),
        chart=("line", (("", (0, 1), (1.5, None)),)),
    ),
    Case(
        "altair",
        "import altair, pandas\naltair.Chart(pandas.DataFrame({'x': [1]})).mark_point()"
        ".encode(x='x').show()",
        ("altair", "pandas"),
        (("text/plain",),),
    ),
    Case(
        "frame of seconds",
        "import pandas, plotly.express as px\n"
        "px.line(pandas.DataFrame({'t': pandas.date_range('2026-01-01', periods=2), 'v': [1, 2]}),"
        " x='t', y='v').show()",
        ("plotly", "pandas"),
        (("application/vnd.plotly.v1+json",),),
        chart=("line", (("", ("2026-01-01", "2026-01-02"), (1, 2)),)),
    ),
)

_CLASS = "class Thing:\n    def {name}(self{more}):\n        return {value}\ndisplay(Thing())"


def _own(name: str, value: str, *mimes: str, more: str = "") -> Case:
    code = _CLASS.format(name=name, value=value, more=more)
    return Case(name, code, displays=((*mimes, "text/plain"),))


PROTOCOL = (
    _own("_repr_html_", "'<b>'", "text/html"),
    _own("_repr_svg_", "'<svg/>'", "image/svg+xml"),
    _own("_repr_latex_", "'$x$'", "text/latex"),
    _own("_repr_json_", "{'a': float('nan')}", "application/json"),
    _own("_repr_markdown_", "'*x*'", "text/markdown"),
    _own("_repr_jpeg_", "b'1', {'width': 1}", "image/jpeg"),
    _own(
        "_repr_mimebundle_",
        "{'text/html': 'h', 'text/plain': 'p'}, {'k': 1}",
        "text/html",
        more=", include=None, exclude=None",
    ),
    Case("text", "display('a', 1)", out="'a'\n1\n"),
    Case("order", "print('a')\ndisplay(2)\nprint('b')", out="a\n2\nb\n"),
    Case(
        "left out",
        "class Big:\n"
        "    def _repr_html_(self): return 'x' * (5 << 20)\n"
        "    def __repr__(self): return 'big'\n"
        "display(Big())",
        displays=(("text/plain",),),
        plain=("big",),
    ),
    Case(
        "left out but for a part",
        "class Long:\n    def _repr_html_(self): return 'x'\n"
        "    def __repr__(self): return '\\0' * (3 << 20)\ndisplay(Long())",
        displays=(("text/html", "text/plain"),),
    ),
)

ALL = (*FIGURES, *FRAMES, *PICTURES, *PROTOCOL)

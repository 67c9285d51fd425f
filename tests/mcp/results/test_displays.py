# SPDX-License-Identifier: Apache-2.0
"""What a model sees of displays: text in its place, pictures within bounds, one URI of the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from mcp_types import CallToolResult, ImageContent, ResourceLink
from tests.support.displays import png

from waggle.domain.programs import MAX_OUTPUT, Output
from waggle.domain.programs.display import Display, Displays
from waggle.domain.programs.job import JobKind, JobState, JobView
from waggle.domain.toolset import Offer
from waggle.mcp.offered import result_for
from waggle.mcp.results import success
from waggle.mcp.results.displays import (
    DISPLAYS_META_KEY,
    MAX_LISTED,
    MAX_PICTURES,
    MAX_SHOWN,
    MAX_TEXT,
)
from waggle.mcp.results.programs import JobShown, command_text, job_shown
from waggle.mcp.uris import display_uri, displays_uri

ENVIRONMENT = "00000000-0000-4000-8000-000000000001"
ALL = displays_uri(ENVIRONMENT, 4)
EVENT_LIMIT = 1024 * 1024
TABLE = "   a  b\n0  1  2"
FRAME = {"text/plain": TABLE, "text/html": "<table/>"}
PICTURE: Mapping[str, str | bytes] = {"image/png": png(640, 480), "text/plain": "<Figure size>"}
CHART = {"type": "line", "title": "Sales\nby month", "series": [{"name": "a", "y": [1, 2]}]}


def view(*items: Display, stdout: bytes | Output = b"", dropped: int = 0) -> JobView:
    printed = stdout if isinstance(stdout, Output) else Output(stdout)
    shown = Displays(items, dropped)
    return JobView(
        *(ENVIRONMENT, 4, JobKind.EXECUTE, "x", JobState.EXITED, 0.1, printed, Output(b""), 0),
        displays=shown,
    )


def display(data: Mapping[str, str | bytes], at: int = 0, index: int = 1, **more: Any) -> Display:
    return Display(index, at, 0, data, **more)


def reply(made: JobShown) -> CallToolResult:
    answer = success(
        made.output, command_text, also=made.pictures, hints=made.hints, meta=made.meta
    )
    return result_for(answer, Offer())


def text(made: JobShown) -> str:
    return command_text(made.output)


def uri(index: int, form: str = "") -> str:
    return display_uri(ENVIRONMENT, 4, index, form)


def test_a_value_that_is_text_is_shown_in_its_place_and_nowhere_else() -> None:
    made = job_shown(view(display({"text/plain": "42"}, at=7), stdout=b"before\nafter\n"), 1_000)
    assert made.output.stdout == "before\n42\nafter\n"
    assert text(made) == "before\n42\nafter\n[job 4: exit 0]"
    assert made.hints == []


def test_a_frame_is_its_text_table_and_costs_nothing_more() -> None:
    made = job_shown(view(display(FRAME)), 1_000)
    assert text(made) == f"{TABLE}\n[job 4: exit 0]"
    result = reply(made)
    assert result.structured_content == {
        "job_id": 4,
        "status": "exited",
        "exit_code": 0,
        "stdout": f"{TABLE}\n",
    }
    assert result.meta == {
        DISPLAYS_META_KEY: [{"index": 1, "mime_types": ["text/plain", "text/html"], "uri": uri(1)}]
    }


def test_a_picture_is_shown_with_one_line_that_names_it() -> None:
    made = job_shown(view(display(PICTURE, chart=CHART), stdout=b"drawing\n"), 1_000)
    assert text(made) == "[picture 1, Sales by month]\ndrawing\n[job 4: exit 0]"
    result = reply(made)
    assert result.structured_content is None
    assert [block.data for block in result.content if isinstance(block, ImageContent)]
    (link,) = (block for block in result.content if isinstance(block, ResourceLink))
    assert (link.uri, link.mime_type, link.size) == (
        uri(1, "image/png"),
        "image/png",
        len(png(640, 480)),
    )
    types = ["image/png", "text/plain"]
    shown = {"index": 1, "mime_types": types, "uri": uri(1), "chart": CHART}
    assert result.meta == {DISPLAYS_META_KEY: [shown]}


def test_without_pictures_the_result_has_structured_content() -> None:
    made = job_shown(view(display(PICTURE)), 1_000, pictures=False)
    assert made.pictures == []
    line = "[picture 1: image/png 640x480; not shown]"
    assert text(made) == f"{line}\n[more: {ALL}]\n[job 4: exit 0]"
    assert reply(made).structured_content == {
        "job_id": 4,
        "status": "exited",
        "exit_code": 0,
        "stdout": f"{line}\n",
        "displays_uri": ALL,
    }


def test_what_is_not_shown_is_at_one_uri_however_much_it_is() -> None:
    some = (FRAME, {"text/html": "<b>x</b>"}, PICTURE, {"image/svg+xml": "<svg/>"})
    made = job_shown(view(*(display(data, index=n) for n, data in enumerate(some, 1))), 10_000)
    assert text(made) == (
        f"{TABLE}\n[display 2: text/html]\n[picture 3]\n[display 4: image/svg+xml]\n"
        f"[more: {ALL}]\n[job 4: exit 0]"
    )


def test_of_what_is_gone_only_pictures_and_text_are_shown() -> None:
    made = job_shown(view(display(PICTURE), display(FRAME, index=2)), 1_000, linked=False)
    assert [type(block) for block in made.pictures] == [ImageContent]
    assert "waggle://" not in text(made)
    assert reply(made).meta is None


def test_a_chart_is_in_the_result_if_it_is_short_and_else_at_its_uri() -> None:
    plotly = {"application/vnd.plotly.v1+json": "{}", "text/plain": "Figure({" + "x" * 1_000}
    made = job_shown(view(display(plotly, chart=CHART)), 10_000)
    types = "application/vnd.plotly.v1+json, text/plain"
    assert made.output.stdout == f"[display 1: {types}, Sales by month]\n"
    compact = json.dumps(CHART, separators=(",", ":"))
    assert f"[chart of display 1: {compact}]\n[more: {ALL}]" in text(made)
    content = reply(made).structured_content
    assert content is not None
    assert content["charts"] == [{"display": 1, "chart": CHART}]
    long = {"type": "line", "axes": [{"title": "Inner"}], "y": [*range(1_000)]}
    made = job_shown(view(display(plotly, chart=long)), 10_000)
    assert made.output.charts == []
    assert made.meta[DISPLAYS_META_KEY][0]["chart_uri"] == uri(1, "chart")
    assert ", Inner]" in made.output.stdout
    many = [display(plotly, index=n, chart={"y": "x" * 1_900}) for n in range(1, 10)]
    made = job_shown(view(*many), 10_000)
    assert [item.display for item in made.output.charts] == [1, 2, 3, 4]
    assert ["chart" in item for item in made.meta[DISPLAYS_META_KEY]] == [True] * 4 + [False] * 5


def test_text_that_only_names_a_class_gives_way_to_what_says_more() -> None:
    named = "<IPython.core.display.Markdown object>"
    made = job_shown(view(display({"text/plain": named, "text/markdown": "# *x*"})), 1_000)
    assert made.output.stdout == "# *x*\n"
    made = job_shown(view(display({"text/plain": named, "text/html": "<b>x</b>"})), 1_000)
    assert made.output.stdout == "[display 1: text/plain, text/html]\n"
    made = job_shown(view(display({"text/plain": named})), 1_000)
    assert made.output.stdout == f"{named}\n"


def test_long_text_is_cut_at_a_line() -> None:
    table = "\n".join(f"{n} x" for n in range(10_000))
    made = job_shown(view(display({"text/plain": table})), 50_000)
    assert len(made.output.stdout) < MAX_TEXT + 100
    assert made.output.stdout.endswith("x\n[the rest of display 1 is not shown]\n")
    assert made.output.displays_uri == ALL


def test_a_picture_that_is_too_large_or_false_is_not_shown() -> None:
    wide = display({"image/png": png(4_096, 1_025)})
    assert job_shown(view(wide), 1_000).output.stdout == (
        "[picture 1: image/png 4096x1025; not shown]\n"
    )
    heavy = display({"image/png": png(9, 9, junk=400_000)})
    assert job_shown(view(heavy), 1_000).pictures == []
    for data in (b"no png", png()[:-20], b"GIF89a\1\0\1\0;"):
        made = job_shown(view(display({"image/png": data})), 1_000)
        assert made.output.stdout == "[display 1: image/png]\n"
        assert made.output.displays_uri == ALL


def test_pictures_are_bounded_in_number() -> None:
    many = [display({"image/png": png(n, n)}, index=n) for n in range(1, 1_001)]
    made = job_shown(view(*many, dropped=2), 100_000)
    assert sum(isinstance(block, ImageContent) for block in made.pictures) == MAX_PICTURES
    assert made.output.stdout.count("; not shown]") == MAX_SHOWN - MAX_PICTURES
    assert made.output.stdout.endswith(f"[{1_000 - MAX_SHOWN} more displays]\n")
    assert made.output.displays_uri == ALL
    assert len(made.meta[DISPLAYS_META_KEY]) == MAX_LISTED
    note = (reply(made).content[1].model_dump())["text"]
    assert note == "2 displays were too large, damaged or too many, and not kept."


def test_displays_in_the_part_that_was_cut_are_at_the_cut() -> None:
    stdout = Output(b"x" * 500, b"y" * 500, 10_000)
    made = job_shown(view(display({"text/plain": "42"}, at=5_000), stdout=stdout), 400)
    head, _, rest = made.output.stdout.partition("\n[... ")
    assert set(head) == {"x"}
    mark, _, tail = rest.partition(" bytes cut ...]\n42\n")
    assert mark == f"{made.output.stdout_bytes_cut} of 10000"
    assert set(tail) == {"y"}


def test_output_and_displays_are_shown_as_a_terminal_shows_them() -> None:
    bar = b"\r 10%|#\r100%|##\n\x1b[31mred\x1b[0m\n" + b"w.py:1: UserWarning\n" * 90
    made = job_shown(view(display({"text/plain": "\x1b[1mbold"}, at=len(bar)), stdout=bar), 1_000)
    assert made.output.stdout == (
        "100%|##\nred\nw.py:1: UserWarning\n[the line above was printed 90 times]\nbold\n"
    )
    assert made.output.stdout_bytes_cut == 0


displays = st.lists(
    st.tuples(
        st.dictionaries(
            st.sampled_from(["text/plain", "text/html", "image/png", "application/json"]),
            st.text(max_size=30) | st.just(png(3, 3)) | st.binary(max_size=9),
            min_size=1,
        ),
        st.integers(0, 2**64 - 1),
        st.none() | st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3),
    ),
    max_size=6,
)


@given(displays, st.binary(max_size=300), st.integers(100, 400), st.booleans())
def test_any_displays_make_a_result_that_is_bounded(
    given_: list[Any], stdout: bytes, characters: int, pictures: bool
) -> None:
    items = [display(data, at, n + 1, chart=chart) for n, (data, at, chart) in enumerate(given_)]
    made = job_shown(view(*items, stdout=stdout), characters, pictures=pictures)
    assert len(made.output.stdout) <= characters + 30
    reply(made)


def test_the_worst_displays_make_a_result_that_every_client_accepts() -> None:
    mimes = {f"{'t' * 60}/{n:03}{'x' * 120}": "x" for n in range(20)}
    worst = {**mimes, "text/plain": "\x01" * 9_000, "image/png": png(9, 9, junk=340_000)}
    chart = {"title": "\x01" * 300, "s": "\x01" * 300}
    items = [display(worst, 2_000 * n, n + 1, chart=chart) for n in range(60)]
    for byte in (b"\x01", b"\xff", b"\r\x01"):
        stdout = Output(byte * 50_000, byte * 50_000, 1 << 30)
        for pictures in (True, False):
            for only in (items, [display({"text/plain": "\x01" * 9_000}, 9, n) for n in range(60)]):
                made = job_shown(view(*only, stdout=stdout), MAX_OUTPUT, pictures=pictures)
                wire = json.dumps(reply(made).model_dump(mode="json", by_alias=True))
                assert len(wire) < EVENT_LIMIT

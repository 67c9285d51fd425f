# SPDX-License-Identifier: Apache-2.0
"""Offers of tools, and advice that names only tools on offer."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import InvalidArgument
from waggle.domain.toolset import ALL_TOOLS, ALL_TOOLSETS, TOOLS, Offer, Toolset

WITHOUT_FILES = Offer(ALL_TOOLSETS - {Toolset.FILES, Toolset.CORE})
CORE = Offer(frozenset({Toolset.CORE}))


def test_an_offer_knows_its_tools() -> None:
    assert all(Offer().has(name) for names in TOOLS.values() for name in names)
    assert WITHOUT_FILES.has("execute")
    assert not WITHOUT_FILES.has("read_file")
    assert not Offer().has("read")


def test_the_core_is_first_and_holds_tools_of_other_sets() -> None:
    assert CORE.tools == TOOLS[Toolset.CORE] == Offer().tools[:10]
    topics = [name for topic in Toolset if topic != "core" for name in TOOLS[topic]]
    assert sorted(topics) == sorted(ALL_TOOLS)


@pytest.mark.parametrize("words", [["full"], ["ALL"], ["core", "full"], [*Toolset]])
def test_a_client_may_choose_everything_that_is_allowed(words: list[str]) -> None:
    assert CORE.choose(words).tools == ALL_TOOLS
    allowed = Offer(frozenset({Toolset.CORE}), frozenset({Toolset.CORE, Toolset.PORTS}))
    assert allowed.choose(words).tools == allowed.whole.tools
    assert {*allowed.whole.tools} == {*TOOLS[Toolset.CORE], "expose_port", "unexpose_port"}


def test_a_client_may_choose_only_sets_that_exist_and_are_allowed() -> None:
    narrow = Offer(frozenset({Toolset.RUN}), frozenset({Toolset.RUN, Toolset.FILES}))
    assert narrow.choose(["files", "ports"]).tools == TOOLS[Toolset.FILES]
    assert {*narrow.choose(["core"]).tools} == {*TOOLS[Toolset.CORE]} & {*TOOLS[Toolset.FILES]}
    with pytest.raises(InvalidArgument) as refused:
        narrow.choose(["ports"])
    assert refused.value.hint == "It offers: files, run."
    for words in (["port"], [""], []):
        with pytest.raises(InvalidArgument) as unknown:
            narrow.choose(words)
        assert "core, environments" in unknown.value.hint


@pytest.mark.parametrize(
    "text, advice",
    [
        ("Use read_file.", ""),
        ("Try again.  Read it  well.", "Try again.  Read it  well."),
        ("Try again. Use read_file.", "Try again."),
        ("Use read_file. Try again.", "Try again."),
        ("Try again; read_file shows it.", "Try again."),
        ("Use read_file; then try again.", "Then try again."),
        ("Use read_file; wait_job waits.", "wait_job waits."),
        ("One; read_file shows it; two. Three.", "One; two. Three."),
        ("A file's name is read_files, or my_read_file.", None),
        ("", ""),
        ("read_file; ", ""),
    ],
)
def test_advice_leaves_out_clauses_with_tools_not_offered(text: str, advice: str | None) -> None:
    assert WITHOUT_FILES.advice(text) == (text if advice is None else advice)
    assert Offer().advice(text) == text


NAMES = [name for names in TOOLS.values() for name in names]


@given(
    st.frozensets(st.sampled_from(Toolset)),
    st.lists(st.sampled_from([*NAMES, "a", "B", ";", ".", "; ", ". ", " ", "\n"])).map("".join),
)
def test_any_advice_names_only_offered_tools(toolsets: frozenset[Toolset], text: str) -> None:
    offer = Offer(toolsets)
    advice = offer.advice(text)
    assert all(offer.has(name) for name in NAMES if re.search(rf"\b{name}\b", advice))
    assert offer.advice(advice) == advice

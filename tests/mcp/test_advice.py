# SPDX-License-Identifier: Apache-2.0
"""Advice is cut where a result leaves; what a guest wrote is not, whatever it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import pytest
from mcp_types import ImageContent, ResourceLink
from pydantic import BaseModel

import waggle.mcp
from waggle.domain.toolset import ALL_TOOLSETS, Offer, Toolset
from waggle.mcp.errors import Failure
from waggle.mcp.offered import result_for
from waggle.mcp.results import ADVICE, Hint, Reply, failed, success

WITHOUT_FILES = Offer(ALL_TOOLSETS - {Toolset.FILES, Toolset.CORE})
GUEST = "Use read_file; then write_file. Go on."
EDGE = {"offered.py", "surfaces.py", "server.py", "context.py", "resources/__init__.py"}
"""Where calls enter and answers leave, and the settings."""


class Why(BaseModel):
    cause: str
    step: Annotated[str, ADVICE] = ""


class Ran(BaseModel):
    stdout: str
    why: Why
    note: str = ""


def ran() -> Ran:
    return Ran(stdout=GUEST, why=Why(cause=GUEST, step="Try it; read_file shows it."), note=GUEST)


def text(model: Ran) -> str:
    return f"{model.stdout}\n{model.why.cause} {model.why.step}"


def test_only_marked_advice_is_cut() -> None:
    result = result_for(
        success(ran(), text, hints=[Hint("write_file makes it.", GUEST)]), WITHOUT_FILES
    )
    note = f"{GUEST} {GUEST}."
    assert [block.model_dump()["text"] for block in result.content] == [
        f"{GUEST}\n{GUEST} Try it.",
        note,
    ]
    assert result.structured_content == {
        "stdout": GUEST,
        "why": {"cause": GUEST, "step": "Try it."},
        "note": note,
    }


def test_all_advice_is_kept_if_everything_is_offered() -> None:
    result = result_for(success(ran(), text, hints=[Hint("write_file makes it.", "No a")]), Offer())
    assert result.structured_content is not None
    assert result.structured_content["note"] == f"{GUEST} No a: write_file makes it."
    assert result.structured_content["why"]["step"] == "Try it; read_file shows it."


def test_a_failure_loses_its_advice_and_keeps_the_output_before_it() -> None:
    failure = Failure("lost", GUEST, "Try again; read_file shows it.")
    result = result_for(failed(failure, ran(), text), WITHOUT_FILES)
    assert result.structured_content is not None
    assert result.structured_content["error"]["hint"] == "Try again."
    (block,) = result.content
    assert block.model_dump()["text"] == (f"{GUEST}\n{GUEST} Try it.\n{GUEST}\n{GUEST} Try again.")


@pytest.mark.parametrize("offer, kinds", [(Offer(), 2), (WITHOUT_FILES, 1)])
def test_a_link_is_kept_only_if_its_kind_is_offered(offer: Offer, kinds: int) -> None:
    uri = "waggle://environments/00000000-0000-4000-8000-000000000001/files/a.png"
    also = (
        ImageContent(type="image", data="", mime_type="image/png"),
        ResourceLink(type="resource_link", name="a.png", uri=uri),
    )
    result = result_for(Reply(None, (), also), offer)
    assert len(result.content) == kinds


def test_no_module_between_the_edges_knows_the_offer() -> None:
    top = Path(waggle.mcp.__file__).parent
    knowing = {
        str(path.relative_to(top))
        for path in top.rglob("*.py")
        if re.search(r"\bOffer\b|\.offer\b|mcp\.offered import (?!refusing)", path.read_text())
    }
    assert knowing == EDGE

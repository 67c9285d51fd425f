# SPDX-License-Identifier: Apache-2.0
"""The form and the size limits of every result.

A tool makes a `Reply`; `waggle.mcp.offered` makes the result that its client receives, because only
there it is known which advice the client can follow. A model is the schema of a tool's structured
content; a field with its default is left out. Times are RFC 3339 in UTC, sizes bytes. Common
clients refuse an event over 1 MiB, and a result is sent twice, as text and as structured content.
So one copy of guest data may take `COPY_BUDGET` bytes of JSON, all non-ASCII characters escaped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, TypeVar

from mcp_types import CallToolResult, ContentBlock, ImageContent, ResourceLink, TextContent
from pydantic import BaseModel

from waggle.domain.programs import Output
from waggle.domain.programs.text import Insert, printed
from waggle.mcp.errors import Failure

NOTE = "A fact, or the next step."
NEW_META_KEY = "waggle/new_environment"
"""The key in a result's `_meta` of the id of the environment that the call created."""
_M = TypeVar("_M", bound=BaseModel)
_Data = BaseModel | Mapping[str, Any]


class _Advice:
    """The mark of a model's field that is waggle's own advice, not text of a guest."""


ADVICE: Final = _Advice()


@dataclass(frozen=True, slots=True)
class Hint:
    """Advice for the note of a result. `fact` goes before it; a guest may have written that."""

    advice: str
    fact: str = ""

    def text(self, advise: Callable[[str], str]) -> str:
        """Return the fact with the rest of the advice."""
        left = advise(self.advice)
        if not self.fact:
            return left
        return f"{self.fact}: {left}" if left else f"{self.fact}."


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer of a tool. Advice is apart from all else until `result` puts them together.

    Advice is the hint of the `failure`, the `hints`, and the fields of the model that are marked
    with ADVICE. A text that contains such a field is a function of the model.
    """

    model: _Data | None
    texts: Sequence[str | Callable[[Any], str]]
    also: Sequence[ContentBlock] = ()
    hints: Sequence[Hint] = ()
    failure: Failure | None = None
    new_environment: tuple[str, str] | None = None
    """The id of the environment that the call created, and its runtime."""
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """For programs: the result's `_meta`."""

    def result(
        self, advise: Callable[[str], str], linked: Callable[[ResourceLink], bool]
    ) -> CallToolResult:
        """Return the result, with the advice that `advise` leaves, and the `linked` links.

        The note is the last text before the failure's. A result with a picture has no structured
        content: common clients show only structured content if there is any, and would hide the
        picture.
        """
        model = _advised(self.model, advise) if isinstance(self.model, BaseModel) else self.model
        data = {} if model is None else fields_of(model)
        notes = [data.get("note", ""), *(hint.text(advise) for hint in self.hints)]
        if note := " ".join(filter(None, notes)):
            data["note"] = note
        texts = [text if isinstance(text, str) else text(model) for text in self.texts]
        also = [
            block for block in self.also if not isinstance(block, ResourceLink) or linked(block)
        ]
        failure = self.failure and self.failure.advised(advise)
        meta = {**self.meta, **(failure.meta() if failure else {})}
        if failure:
            texts = ["\n".join(filter(None, (*texts, note, failure.text)))]
            data["error"] = failure.data()
        else:
            texts.append(note)
        if self.new_environment:
            made, kind = self.new_environment
            texts.insert(0, f"environment_id: {made} (new, {kind}; give it to continue there)")
            data, meta = {"environment_id": made, **data}, {**meta, NEW_META_KEY: made}
        hidden = model is None or any(isinstance(block, ImageContent) for block in also)
        return CallToolResult(
            content=[*(TextContent(type="text", text=text) for text in texts if text), *also],
            structured_content=None if hidden else data,
            is_error=failure is not None,
            _meta=meta or None,
        )

    def introduced(self, environment_id: str, kind: str) -> Reply:
        """Return the reply of a call that created this environment, beginning with its id."""
        return replace(self, new_environment=(environment_id, kind))


def success(
    model: _M | Mapping[str, Any],
    *texts: str | Callable[[_M], str],
    also: Sequence[ContentBlock] = (),
    hints: Sequence[Hint] = (),
    meta: Mapping[str, Any] | None = None,
) -> Reply:
    """Return a reply as text blocks and as structured content, with the same information."""
    return Reply(model, texts, also, hints, meta=meta or {})


def failed(
    failure: Failure,
    model: _M | None = None,
    before: str | Callable[[_M], str] = "",
    hints: Sequence[Hint] = (),
    meta: Mapping[str, Any] | None = None,
) -> Reply:
    """Return an error; `before` is output so far as text, `model` the same as data.

    The data includes the failure, for clients that show a model nothing else. Without data there is
    no structured content, because some clients check that against the output schema.
    """
    return Reply(model, (before,), (), hints, failure, meta=meta or {})


def _advised(model: _M, advise: Callable[[str], str]) -> _M:
    changed: dict[str, Any] = {}
    for name, about in type(model).model_fields.items():
        value: object = getattr(model, name)
        if ADVICE in about.metadata and isinstance(value, str):
            changed[name] = advise(value)
        elif isinstance(value, BaseModel):
            changed[name] = _advised(value, advise)
    return model.model_copy(update=changed) if changed else model


@lru_cache(maxsize=1000)
def rfc3339(at: datetime) -> str:
    """Return a time as clients expect it, for example `2026-03-04T05:06:07Z`."""
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def readable(text: str) -> str:
    """Return `text` without lone surrogates, which JSON cannot represent."""
    return text.encode("utf-8", "replace").decode("utf-8")


def fields_of(model: _Data) -> dict[str, Any]:
    """Return the structured content: a model's fields without those that have their defaults.

    A mapping must be in this form already; the result is a copy of it.
    """
    if isinstance(model, BaseModel):
        return model.model_dump(mode="json", exclude_defaults=True)
    return {**model}


COPY_BUDGET = 480_000
"""The most bytes of JSON of one copy of a result's payload."""
LIST_BUDGET = 32_000
"""The most characters of a list of the guest's files or matches."""


def wire_size(text: str) -> int:
    """Return the most bytes that `text` takes inside a JSON document."""
    return len(json.dumps(text)) - 2


def fit(text: str, budget: int) -> str:
    """Return a prefix of `text` that takes at most `budget` bytes on the wire, and not much less.

    It is empty only for an empty `text`, if the budget is 12 bytes or more.
    """
    keep = len(text)
    while (size := wire_size(text[:keep])) > budget:
        keep = min(keep * budget // size, keep - 1)
    return text[:keep]


def share(
    stdout: Output, stderr: Output, characters: int, inserts: Sequence[Insert] = ()
) -> tuple[Output, Output]:
    """Return both streams, cut so that their texts have at most `characters` and fit a result.

    A short stream leaves its room to the other. The `inserts` belong to stdout, and are never cut.
    """
    first, second = _cost(stdout, inserts, characters), _cost(stderr, (), characters)
    if first + second <= characters:
        return stdout, stderr
    half = characters // 2
    if first <= half:
        return stdout, shrink(stderr, characters - first, characters)
    if second <= half:
        return shrink(stdout, characters - second, characters, inserts), stderr
    return shrink(stdout, half, characters, inserts), shrink(stderr, half, characters)


_ROUNDS = 4
"""Rounds in which `shrink` looks for the most that fits; then it halves what is kept."""


def shrink(output: Output, room: int, characters: int, inserts: Sequence[Insert] = ()) -> Output:
    """Return the stream with more of its middle cut out, until its text takes at most `room`."""
    kept, rounds = len(output.head) + len(output.tail), 0
    while (cost := _cost(output, inserts, characters)) > room and kept > 0:
        rounds += 1
        kept = min(kept * room // cost, kept - 1) if rounds <= _ROUNDS else kept // 2
        output = _cut(output, kept)
    return output


def _cost(output: Output, inserts: Sequence[Insert], characters: int) -> int:
    """Return what the text of a stream takes; see `text_cost`."""
    return text_cost(printed(output, inserts), characters)


def text_cost(text: str, characters: int) -> int:
    """Return the length of `text`, or its share of COPY_BUDGET scaled to `characters` if larger."""
    return max(len(text), -(-wire_size(text) * characters // COPY_BUDGET))


def _cut(output: Output, kept: int) -> Output:
    """Keep `kept` bytes, half from each end. `printed` leaves out characters cut in two."""
    rest = output.tail or output.head
    half = kept // 2
    return Output(
        head=output.head[: kept - half], tail=rest[len(rest) - half :], total=output.total
    )

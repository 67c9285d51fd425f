# SPDX-License-Identifier: Apache-2.0
"""Fuzzed URIs, cursors and completions: a page or a refusal, never data of another owner."""

from __future__ import annotations

import base64
import json
from collections.abc import Generator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tests.support.wire import FOREIGN, OWN, SECRET, TRACES, Ground, hunting_ground

from waggle.mcp.errors import ERROR_META_KEY

NO_JSON = -32700
REFUSALS = {-32002, -32602, -32603}

wild = st.text(max_size=20) | st.sampled_from(
    ["..", "%2e%2e", "%2f", "%00", "\0", "\ud800", "%ff", "//", "?", "#", "&", "=", "1" * 400]
)
ids = st.sampled_from([OWN, FOREIGN, OWN.upper(), f"{OWN}/../{FOREIGN}", "..", ""]) | wild
paths = st.sampled_from(["tmp/a", "tmp", "../tmp/a", "%2e%2e/a", "home/sandbox/a"]) | wild
kinds = (
    st.tuples(st.just("executions"), st.sampled_from(["0", "1", "-1", "01", "9" * 30]) | wild)
    | st.tuples(st.just("files"), paths)
    | st.tuples(st.just("archives"), st.sampled_from(["0" * 16, "ARCHIVE"]) | wild)
    | st.tuples(wild, wild)
)
streams = st.sampled_from(["", "/stdout", "/stderr", "/stdin"]) | wild
numbers = st.integers(-(10**20), 10**20).map(str) | wild
queries = st.lists(
    st.tuples(st.sampled_from(["offset", "length", "search"]) | wild, numbers), max_size=3
).map(lambda items: "&".join(f"{name}={value}" for name, value in items))


def assembled(parts: tuple[str, tuple[str, str], str, str, bool]) -> str:
    identifier, (kind, name), stream, query, escaped = parts
    whole = f"{identifier}/{kind}/{name}{stream}" + (f"?{query}" if query else "")
    text = quote(whole, safe="/%?&=", errors="replace") if escaped else whole
    return f"waggle://environments/{text}"


uris = st.tuples(ids, kinds, streams, queries, st.booleans()).map(assembled) | wild


@pytest.fixture
def ground() -> Generator[Ground]:
    with hunting_ground() as made:
        yield made


def check(sent: str, answer: dict[str, Any]) -> None:
    """Assert that an answer is a result or a proper refusal, and leaks nothing."""
    text = json.dumps(answer)
    assert SECRET not in text
    assert base64.b64encode(SECRET.encode()).decode()[:-4] not in text
    assert not [trace for trace in TRACES if trace in text and trace not in json.dumps(sent)]
    if "\ud800" in sent and answer.get("error", {}).get("code") == NO_JSON:
        return  # JSON between programs may not hold a lone surrogate
    if "error" in answer:
        assert answer["error"]["code"] in REFUSALS
        failure = answer["error"]["data"][ERROR_META_KEY]
        assert failure["code"] != "internal"
        assert failure["message"]


def test_any_uri_is_read_or_refused(ground: Ground) -> None:
    ground.wire.call("execute", {"environment_id": OWN, "code": "echo mine"})

    @settings(max_examples=120, deadline=None)
    @given(uris)
    def whatever(uri: str) -> None:
        uri = uri.replace("ARCHIVE", ground.archive_id)
        check(uri, ground.wire.send("resources/read", {"uri": uri}, uri))

    with capture_logs() as logs:
        whatever()
    assert not [entry for entry in logs if entry["log_level"] == "error"]
    ground.assert_untouched()
    own = f"waggle://environments/{OWN}/executions/1/stdout"
    read = ground.wire.rpc("resources/read", {"uri": own}, own)
    assert read["contents"][0]["text"] == "mine\n"


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode("utf-8", "replace")).decode()


places = wild | st.sampled_from([FOREIGN, f"0 {FOREIGN}", ""])
cursors = wild | places.map(encoded)


def test_any_cursor_lists_only_resources_of_the_caller(ground: Ground) -> None:
    @settings(max_examples=60, deadline=None)
    @given(cursors)
    def whatever(cursor: str) -> None:
        answer = ground.wire.send("resources/list", {"cursor": cursor})
        check(cursor, answer)
        for resource in answer.get("result", {}).get("resources", ()):
            assert resource["uri"].startswith(f"waggle://environments/{OWN}")

    whatever()
    ground.assert_untouched()


def test_any_completion_offers_only_environments_of_the_caller(ground: Ground) -> None:
    templates = [
        template["uriTemplate"]
        for template in ground.wire.rpc("resources/templates/list", {})["resourceTemplates"]
    ]

    @settings(max_examples=60, deadline=None)
    @given(
        st.sampled_from(templates) | wild,
        st.sampled_from(["id", "n", "stream", "path", "archive"]) | wild,
        st.sampled_from(["", "0"]) | wild,
        st.dictionaries(st.just("id"), ids),
    )
    def whatever(template: str, name: str, typed: str, chosen: dict[str, str]) -> None:
        answer = ground.wire.send(
            "completion/complete",
            {
                "ref": {"type": "ref/resource", "uri": template},
                "argument": {"name": name, "value": typed},
                "context": {"arguments": chosen},
            },
        )
        values = answer["result"]["completion"]["values"]
        assert FOREIGN not in values
        if chosen.get("id") == FOREIGN:
            assert name != "n" or values == []

    whatever()
    ground.assert_untouched()

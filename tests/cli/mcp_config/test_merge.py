# SPDX-License-Identifier: Apache-2.0
"""Merging an entry into a file: the rest stays to the letter, or the file is refused."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cli.mcp_config.samples import JSON

from waggle.cli.mcp_config.merge import CannotMerge, Format, merged, put_json, read_json

ENTRY: dict[str, Any] = {"command": "/bin/waggle", "args": ["serve", "--stdio"]}


def without_marks(text: str) -> set[str]:
    """Return the comments of a file."""
    return {line.strip() for line in text.splitlines() if line.strip().startswith(("//", "#"))}


@pytest.mark.parametrize("text", JSON.values(), ids=JSON)
def test_json_gains_the_entry_and_loses_nothing(text: str) -> None:
    changed = merged("json", text, "mcpServers", "waggle", ENTRY)
    data = read_json(changed)[0]
    before: dict[str, Any] = read_json(text)[0] if text else {}
    assert data.pop("mcpServers") == {**before.pop("mcpServers", {}), "waggle": ENTRY}
    assert data == before
    assert without_marks(text) <= without_marks(changed)
    assert ("\r\n" in text) == ("\r\n" in changed)
    assert merged("json", changed, "mcpServers", "waggle", ENTRY) == changed


def test_json_is_indented_like_the_rest() -> None:
    changed = put_json(JSON["other servers"], "mcpServers", "waggle", {"command": "y"})
    assert changed == (
        '{\n\t"mcpServers": {\n\t\t"waggle": {\n\t\t\t"command": "y"\n\t\t},\n'
        '\t\t"a": {"command": "x"}\n\t},\n\t"z": [1, 2.50]\n}\n'
    )


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"a": 1',
        "[]",
        '{"a": 1} {"b": 2}',
        '{"a": 1, "a": 2}',
        '{"mcpServers": []}',
        '{"mcpServers": null}',
        "{'a': 1}",
        '{"a" 1}',
        '{"a": "x\ny"}',
        '{"a": 1 /* open }',
        '{"a": ' * 100_000,
        '{"a": nope}',
    ],
)
def test_broken_json_is_refused(text: str) -> None:
    with pytest.raises(CannotMerge):
        merged("json", text, "mcpServers", "waggle", ENTRY)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(st.text(max_size=8), VALUES, max_size=4), st.sampled_from([None, 1, 4, "\t"])
)
def test_any_json_keeps_its_other_values(data: dict[str, object], indent: int | str | None) -> None:
    data.pop("m", None)
    text = json.dumps({**data, "m": {"other": data}}, indent=indent)
    wanted = {**data, "m": {"other": data, "waggle": ENTRY}}
    assert json.loads(put_json(text, "m", "waggle", ENTRY)) == wanted
    alone = {**data, "m": {"waggle": ENTRY}}
    assert json.loads(put_json(json.dumps(data), "m", "waggle", ENTRY)) == alone


TOML = {
    "nothing": "",
    "others": '# mine\nmodel = "x"\n\n[mcp_servers.a]\ncommand = "y" # here\n',
    "ours": (
        '[mcp_servers.waggle]\ncommand = "old"\n\n[mcp_servers.waggle.env]\nX = "1"\n\n'
        '# about b\n[mcp_servers.b]\nurl = "z"\n'
    ),
    "ours last": '[mcp_servers."waggle"]\ncommand = "old"',
    "no line end": 'model = "x"',
    "texts that look like tables": 'a = """\n[mcp_servers.a]\n"""\n',
}


@pytest.mark.parametrize("text", TOML.values(), ids=TOML)
def test_toml_gains_the_entry_and_loses_nothing(text: str) -> None:
    changed = merged("toml", text, "mcp_servers", "waggle", {**ENTRY, "env": {"A": "\u00fc\n"}})
    data, before = tomllib.loads(changed), tomllib.loads(text)
    servers = data.pop("mcp_servers")
    assert servers.pop("waggle") == {**ENTRY, "env": {"A": "\u00fc\n"}}
    old = before.pop("mcp_servers", {})
    old.pop("waggle", None)
    assert (servers, data) == (old, before)
    assert without_marks(text) <= without_marks(changed)
    again = merged("toml", changed, "mcp_servers", "waggle", {**ENTRY, "env": {"A": "\u00fc\n"}})
    assert again == changed


@pytest.mark.parametrize(
    "text",
    [
        "a = ",
        "mcp_servers = 5",
        'mcp_servers = { a = { command = "x" } }',
        'mcp_servers.waggle.command = "x"',
        '[[mcp_servers]]\nname = "a"',
        'a = """\n[mcp_servers.waggle]\n"""\n',
    ],
)
def test_toml_that_cannot_be_merged_is_refused(text: str) -> None:
    with pytest.raises(CannotMerge):
        merged("toml", text, "mcp_servers", "waggle", ENTRY)


GOOSE: dict[str, Any] = {"enabled": True, "type": "stdio", "args": ["a b", "--c"], "envs": {}}
BLOCK = (
    'waggle:\n{0}  enabled: true\n{0}  type: "stdio"\n{0}  args: ["a b", "--c"]\n{0}  envs: {{}}\n'
)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", "extensions:\n  " + BLOCK.format("  ")),
        ("a: 1", "a: 1\nextensions:\n  " + BLOCK.format("  ")),
        (
            "# top\nextensions:\n    # first\n    dev:\n        enabled: true\nmodel: x\n",
            "# top\nextensions:\n    " + BLOCK.format("    ")
            + "    # first\n    dev:\n        enabled: true\nmodel: x\n",
        ),
        (
            "extensions:\n  waggle:\n    old: 1\n    args:\n    - x\n"
            "\n  # next\n  dev:\n    a: 1\n",
            "extensions:\n  " + BLOCK.format("  ") + "\n  # next\n  dev:\n    a: 1\n",
        ),
        (
            "extensions: # none\nmodel: x\n",
            "extensions: # none\n  " + BLOCK.format("  ") + "model: x\n",
        ),
    ],
)  # fmt: skip
def test_yaml_in_the_block_style(text: str, expected: str) -> None:
    changed = merged("yaml", text, "extensions", "waggle", GOOSE)
    assert changed == expected
    assert merged("yaml", changed, "extensions", "waggle", GOOSE) == changed


@pytest.mark.parametrize(
    "text",
    [
        "extensions: {}\n",
        "extensions: {a: 1}\n",
        "extensions: &x\n  a: 1\n",
        "extensions:\n- a\n",
        "extensions:\n  a: 1\nextensions:\n  b: 1\n",
        "'extensions':\n  a: 1\n",
        "a: 1\n---\nextensions:\n  b: 1\n",
        "extensions:\n\ta: 1\n",
    ],
)
def test_yaml_of_other_styles_is_refused(text: str) -> None:
    with pytest.raises(CannotMerge):
        merged("yaml", text, "extensions", "waggle", GOOSE)


@pytest.mark.parametrize("form", ["json", "toml", "yaml"])
def test_a_fragment_is_a_complete_file(form: Format) -> None:
    text = merged(form, "", "section", "waggle", ENTRY)
    assert merged(form, text, "section", "waggle", ENTRY) == text

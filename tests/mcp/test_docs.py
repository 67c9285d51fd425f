# SPDX-License-Identifier: Apache-2.0
"""The page docs/tools.md, which must agree with the registered tools."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generator() -> Iterator[ModuleType]:
    sys.path.insert(0, str(DOCS))
    path = DOCS / "generate_tools.py"
    spec = importlib.util.spec_from_file_location("generate_tools", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(DOCS))


def test_the_tools_page_is_up_to_date(generator: ModuleType) -> None:
    text = (DOCS / "tools.md").read_text("utf-8")
    assert text == generator.page(), "run python docs/generate_tools.py"


def test_every_tool_and_parameter_is_on_the_page(generator: ModuleType) -> None:
    page = generator.page()
    for tool in generator.default_tools():
        section = page.partition(f"## `{tool.name}`\n")[2].partition("\n## ")[0]
        for name in (*tool.accepted["properties"], *tool.result_schema["properties"]):
            assert f"| `{name}`" in section


def test_the_examples_fit_the_schemas(generator: ModuleType) -> None:
    tools = {tool.name: tool for tool in generator.default_tools()}
    assert generator.NOTES.keys() | generator.EXAMPLES.keys() <= tools.keys()
    for name, examples in generator.EXAMPLES.items():
        for example in examples:
            jsonschema.validate(example, tools[name].parameters)
            assert example.keys() <= tools[name].parameters["properties"].keys()

# SPDX-License-Identifier: Apache-2.0
"""docs/tools.md is what the registered tools say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    path = DOCS / "generate_tools.py"
    spec = importlib.util.spec_from_file_location("generate_tools", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_code_says(generator: ModuleType) -> None:
    text = (DOCS / "tools.md").read_text("utf-8")
    assert text == generator.page(), "run python docs/generate_tools.py"


def test_every_tool_and_parameter_is_on_the_page(generator: ModuleType) -> None:
    page = generator.page()
    for tool in generator.default_tools():
        section = page.partition(f"## `{tool.name}`\n")[2].partition("\n## ")[0]
        for name in (*tool.parameters["properties"], *tool.told["properties"]):
            assert f"| `{name}`" in section

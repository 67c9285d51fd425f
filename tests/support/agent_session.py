# SPDX-License-Identifier: Apache-2.0
"""Fifteen typical calls of an agent, and the tokens that their results cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mcp import Client
from tests.support.server import text_of
from tests.support.tokens import compact, tokens

PROGRAM = """\
import json

def total(path):
    with open(path) as file:
        return sum(row["amount"] for row in json.load(file))

print(total("rows.json"))
"""
MADE = "environment"
CALLS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("create_environment", {"runtime": "python"}),
    ("install_packages", {"packages": "six"}),
    ("execute", {"code": "print(6*7)"}),
    ("write_file", {"path": "total.py", "content": PROGRAM}),
    ("execute", {"code": "bash -c 'python3 total.py'", "language": "shell"}),
    ("write_file", {"path": "rows.json", "content": '[{"amount": 3}, {"amount": 4}]'}),
    ("read_file", {"path": "total.py"}),
    ("edit_file", {"path": "total.py", "old_text": 'print(total("', "new_text": 'print("= ",("'}),
    ("edit_file", {"path": "total.py", "old_text": '"= ",("', "new_text": '"sum", total("'}),
    ("execute", {"code": "python3 total.py", "language": "shell"}),
    ("list_files", {}),
    ("list_environments", {}),
    ("execute", {"code": "import time; time.sleep(1); print('done')", "background": True}),
    ("read_job", {"job_id": 5, "wait_seconds": 30}),
    ("destroy_environment", {}),
)
_ALONE = ("create_environment", "list_environments")


@dataclass(frozen=True, slots=True)
class Cost:
    """Tokens of one result, as structured content and as text."""

    tool: str
    structured: int
    text: int


async def costs(agent: Client) -> list[Cost]:
    """Make the calls, in a new environment that the last call destroys."""
    environment = ""
    found: list[Cost] = []
    for tool, given in CALLS:
        where = {} if tool in _ALONE else {"environment_id": environment}
        result = await agent.call_tool(tool, {**where, **given})
        data = result.structured_content
        assert not result.is_error, text_of(result)
        assert data is not None, text_of(result)
        environment = environment or str(data["environment_id"])
        found.append(Cost(tool, tokens(compact(data)), tokens(text_of(result))))
    return found


def table(found: list[Cost]) -> str:
    """Format the costs for a failing test's message."""
    lines = [f"{cost.tool:22} {cost.structured:5} {cost.text:5}" for cost in found]
    sums = sum(cost.structured for cost in found), sum(cost.text for cost in found)
    return "\n".join([*lines, f"{'all':22} {sums[0]:5} {sums[1]:5}"])

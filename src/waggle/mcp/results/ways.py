# SPDX-License-Identifier: Apache-2.0
"""The result of several ways that were tried from one state, side by side. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from waggle.mcp.errors import clean
from waggle.mcp.results import Hint, Reply, success
from waggle.mcp.results.environments import ForkedEnvironment, ForkedEnvironments
from waggle.mcp.results.jobs import CommandOutput
from waggle.mcp.results.programs import command_output, command_text
from waggle.service.programs.ways import Way

MOST_SHOWN = 32_000
"""The most characters of output of all forks together, so that both copies fit a result."""


class TriedFork(ForkedEnvironment):
    """A running copy, and what became of its code."""

    result: CommandOutput | None = Field(default=None, description="As of execute.")
    error: str = Field(default="", description="Why there is no result.")


class TriedForks(ForkedEnvironments):
    """New, running environments, in the order of their code."""

    environments: list[TriedFork]  # pyright: ignore[reportIncompatibleVariableOverride]


def tried(ways: Sequence[Way], shown: int) -> Reply:
    """Return the result of fork_environment with code; `shown` is the characters for all."""
    characters = max(200, min(shown, MOST_SHOWN) // len(ways))
    forks = [_fork(way, characters) for way in ways]
    texts = [_text(fork) for fork in forks]
    head = "Running copies, and what their code did; the environment itself continues:"
    advice = "keep_fork gives the best one the name of the original and destroys the others."
    return success(TriedForks(environments=forks), "\n".join([head, *texts]), hints=[Hint(advice)])


def _fork(way: Way, characters: int) -> TriedFork:
    fork = TriedFork(environment_id=way.environment.id, name=way.environment.name)
    if way.view is not None:
        output, _ = command_output(way.view, characters)
        return fork.model_copy(update={"result": output})
    why = f"{way.error.code}: {way.error.message}" if way.error else "lost"
    return fork.model_copy(update={"error": clean(why)})


def _text(fork: TriedFork) -> str:
    said = command_text(fork.result) if fork.result else fork.error
    return f"== {fork.environment_id} {fork.name}\n{said}"

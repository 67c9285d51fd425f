# SPDX-License-Identifier: Apache-2.0
"""The prompts, which a person picks in a client so that the agent uses the tools well.

Offered by `waggle.mcp.surfaces`, answered by `waggle.mcp.server`. The person's arguments are shown
to the model as data between marks, so that pasted output does not read like instructions of this
server.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any

from mcp.server.mcpserver.prompts import Prompt
from mcp_types import GetPromptResult
from pydantic import Field
from pydantic_core import to_jsonable_python

from waggle.domain.errors import InvalidArgument, WaggleError
from waggle.domain.programs.runtime import RuntimeName
from waggle.mcp.context import Ctx
from waggle.mcp.errors import MAX_ECHO, clean

MOST_TEXT = 20_000
MOST_PROBLEMS = 5


def quoted(name: str, text: str) -> str:
    """Return `text` between marks. Raises InvalidArgument if it is too long for a prompt."""
    if len(text) > MOST_TEXT:
        raise InvalidArgument(
            f"{name} is longer than {MOST_TEXT} characters.",
            hint="Give the part that matters, or have the agent read it from a file.",
        )
    return f"<{name}>\n{text.strip()}\n</{name}>"


def run_code(
    task: Annotated[str, Field(description="The purpose of the program.")],
    runtime: Annotated[str, Field(description="python, node, shell or data.")] = "python",
) -> str:
    """Write a program for a task, run it on a fresh machine, and show that it works."""
    chosen = RuntimeName.parse(runtime.strip().lower())
    return f"""\
Write and run a program for this task:
{quoted("task", task)}
1. create_environment with the runtime {chosen}; keep the environment_id for all that follows.
2. Install only what the task needs, with install_packages.
3. execute the program in small steps, and read exit_code and stderr after each one.
4. Check the result in a second run: other input, an edge case, or the file that was written.
5. Read the files to keep with read_file, then destroy_environment.
Report what you ran, its output, and what you did not check."""


def debug_failure(
    failure: Annotated[str, Field(description="The error: message, traceback or log.")],
    code: Annotated[str, Field(description="The code that failed, if it is at hand.")] = "",
) -> str:
    """Reproduce a failure on a fresh machine, find its cause, and prove the fix."""
    given = f"\n{quoted('code', code)}" if code.strip() else ""
    return f"""\
Find the cause of this failure, and a fix that is proven:
{quoted("failure", failure)}{given}
1. create_environment with the runtime that it belongs to, and put the code there with write_file.
2. Reproduce the failure with execute before you change anything. If it does not appear, say what \
differs (versions, input, network) and look there.
3. Narrow it down: the smallest input and code that still fail. Change one thing at a time.
4. State the cause in a sentence, and show the run that proves it.
5. Apply the smallest fix; run the reproduction again, and a case that worked before.
6. destroy_environment.
Report cause, fix and the two runs. If you could not reproduce it, say so rather than guess."""


def analyse_data(
    question: Annotated[str, Field(description="The question to answer.")],
    data: Annotated[str, Field(description="The data itself, or where to get it.")],
) -> str:
    """Answer a question about data with a program, and show the figures behind the answer."""
    return f"""\
Answer this question about the data below, with a program rather than by eye:
{quoted("question", question)}
{quoted("data", data)}
1. create_environment with the runtime data, which has pandas and matplotlib (install_packages \
adds more); keep the environment_id.
2. Put the data into a file with write_file, or fetch it there with execute. Do not paste it into \
every program.
3. execute with context "main" for all steps: load the data once, and its variables stay for the \
next calls. The value of a last line is shown, a data frame as a short table.
4. Look first: size, columns, types, missing and odd values. Print samples and counts, never the \
whole. plt.show() shows you a plot.
5. Compute the answer, then check it another way: totals, a sample by hand, a second method.
6. Read the results to keep with read_file, then destroy_environment.
Give the answer first, then the figures, how they were made, and what in the data limits them."""


def try_ways(
    task: Annotated[str, Field(description="What is to be done best.")],
    ways: Annotated[str, Field(description="The ways to try, if some are known.")] = "",
) -> str:
    """Try several ways from one prepared state, compare their results, and keep the best."""
    given = f"\n{quoted('ways', ways)}" if ways.strip() else ""
    return f"""\
Find the best way to do this by trying several from one state:
{quoted("task", task)}{given}
1. create_environment, and prepare with execute in a context (such as main) what all ways need: \
packages, data loaded into variables, and a measure of how good a result is.
2. fork_environment with code: a list with one short program for each way, and that context. Each \
runs in its own copy, with all variables, and prints its measure.
3. Compare the results side by side. Give those that still run time with read_job.
4. keep_fork the best one; the original and the others of that call are destroyed. If none is good \
enough, destroy_environment the forks and fork the original again.
Report the measures of all ways, which you kept and why."""


_ALWAYS = frozenset({"create_environment", "execute", "destroy_environment"})
PROMPTS: Mapping[str, tuple[Callable[..., str], frozenset[str]]] = {
    "run-code": (run_code, _ALWAYS | {"install_packages", "read_file"}),
    "debug-failure": (debug_failure, _ALWAYS | {"write_file"}),
    "analyse-data": (analyse_data, _ALWAYS | {"install_packages", "read_file", "write_file"}),
    "try-ways": (try_ways, _ALWAYS | {"fork_environment", "keep_fork", "read_job"}),
}
"""The prompts by name, with the tools that their texts name."""
HINTS: Mapping[str, tuple[str, frozenset[str]]] = {
    "debug-failure": (
        "Take a snapshot_environment once the failure is reproduced; rollback_environment goes "
        "back to it before each attempt, and fork_environment tries several fixes from one state.",
        frozenset({"snapshot_environment", "rollback_environment", "fork_environment"}),
    ),
    "analyse-data": (
        "To try several ways from one state, use fork_environment: every fork has the context "
        "with its data, and the jobs that run; snapshot_environment keeps that state for later.",
        frozenset({"snapshot_environment", "fork_environment"}),
    ),
}
"""The last lines of prompts, if the tools that they name are offered, too."""


def prompts_for(offered: Collection[str]) -> list[Prompt]:
    """Return the prompts that name offered tools only."""
    names = frozenset(offered)
    found: list[Prompt] = []
    for name, (_, tools) in PROMPTS.items():
        if tools <= names:
            hint, named = HINTS.get(name, ("", frozenset[str]()))
            found.append(_prompt(name, hint if named <= names else ""))
    return found


@functools.cache
def _prompt(name: str, hint: str) -> Prompt:
    """Make a prompt, once for all surfaces, because its schema takes milliseconds."""
    function, _ = PROMPTS[name]
    hinted = _with_hint(function, hint) if hint else function
    return Prompt.from_function(hinted, name=name, title=name.replace("-", " ").capitalize())


async def rendered(
    known: Mapping[str, Prompt], name: str, arguments: Mapping[str, str], context: Ctx
) -> GetPromptResult:
    """Return a prompt, filled in. Raises InvalidArgument or InvalidRuntime."""
    check(name, arguments, list(known.values()))
    prompt = known[name]
    try:
        messages = await prompt.render({**arguments}, context)
    except ValueError as error:
        raise _innermost(error) from None
    return GetPromptResult(description=prompt.description, messages=to_jsonable_python(messages))


def check(name: str, arguments: Mapping[str, str], known: Sequence[Prompt]) -> None:
    """Raise InvalidArgument unless there is this prompt and it takes these arguments. Pure."""
    prompt = next((prompt for prompt in known if prompt.name == name), None)
    if prompt is None:
        names = ", ".join(prompt.name for prompt in known)
        raise InvalidArgument(
            f"There is no prompt {clean(name, MAX_ECHO)!r}.",
            hint=f"The prompts are: {names}." if names else "This server has none.",
        )
    takes = {taken.name: bool(taken.required) for taken in prompt.arguments or ()}
    missing = [taken for taken, must in takes.items() if must and taken not in arguments]
    extra = [clean(given, MAX_ECHO) for given in arguments if given not in takes]
    problems = [
        *(f"argument {taken!r} is missing" for taken in missing),
        *(f"there is no argument {given!r}" for given in extra),
    ]
    if problems:
        said = "; ".join(problems[:MOST_PROBLEMS])
        named = ", ".join(f"{taken} (required)" if must else taken for taken, must in takes.items())
        raise InvalidArgument(f"{said[0].upper()}{said[1:]}.", hint=f"{name} takes: {named}.")


def _innermost(error: BaseException) -> BaseException:
    """Return the exception that the prompt raised, inside the SDK's wrappers."""
    cause = error.__cause__
    return error if isinstance(error, WaggleError) or cause is None else _innermost(cause)


def _with_hint(prompt: Callable[..., str], hint: str) -> Callable[..., str]:
    @functools.wraps(prompt)
    def hinted(*args: Any, **kwargs: Any) -> str:
        return f"{prompt(*args, **kwargs)}\n{hint}"

    return hinted

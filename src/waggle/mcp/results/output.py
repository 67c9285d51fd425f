# SPDX-License-Identifier: Apache-2.0
"""Show how a program stands: what it printed, within a budget, and how it ended. Pure."""

from __future__ import annotations

from waggle.domain.programs.execution import MAX_COMMAND
from waggle.domain.programs.job import JobState, JobView, StreamName
from waggle.domain.toolset import Offer
from waggle.mcp.errors import clean
from waggle.mcp.results.budget import share
from waggle.mcp.results.environments import rfc3339
from waggle.mcp.results.jobs import (
    CommandOutput,
    FailureCause,
    LeftProgram,
    ProgramOutput,
    told_ms,
    took,
)
from waggle.mcp.uris import output_uri

_RUNNING = "read_job waits for its end, shows what it prints or kills it."


def command_output(view: JobView, offer: Offer, characters: int) -> CommandOutput:
    """The structured form, with at most `characters` of output; advice heeds `offer`."""
    stdout, stderr = share(view.stdout, view.stderr, characters)
    output = CommandOutput(
        job_id=view.number,
        status=view.state.value,
        stdout=stdout.text(),
        stderr=stderr.text(),
        exit_code=view.exit_code,
        duration_ms=told_ms(view.duration, view.state),
        signal=view.signal or "",
        stdout_bytes_cut=stdout.dropped,
        stderr_bytes_cut=stderr.dropped,
        ends_at=rfc3339(view.ends_at) if view.is_running else "",
        stdout_uri=_uri(view, StreamName.STDOUT) if stdout.dropped else "",
        stderr_uri=_uri(view, StreamName.STDERR) if stderr.dropped else "",
        diagnosis=_cause(view, offer),
        left_running=[
            LeftProgram(pid=each.pid, command=clean(each.command, MAX_COMMAND))
            for each in view.left.programs
        ],
    )
    notes = (
        _rest(view, StreamName.STDOUT, len(stdout.head)) if stdout.dropped else "",
        _rest(view, StreamName.STDERR, len(stderr.head)) if stderr.dropped else "",
        _RUNNING if view.is_running else "",
    )
    return output.model_copy(update={"note": offer.advice(" ".join(filter(None, notes)))})


def _uri(view: JobView, name: StreamName) -> str:
    return output_uri(view.environment_id, view.number, name)


def _rest(view: JobView, name: StreamName, offset: int) -> str:
    stream = "" if name is StreamName.STDOUT else f", stream {name}"
    return f"What was cut: read_job with job_id {view.number}{stream}, offset {offset}."


def _cause(view: JobView, offer: Offer) -> FailureCause | None:
    found = view.diagnosis
    if found is None:
        return None
    cause, next_step = clean(found.cause), clean(offer.advice(found.next_step))
    return FailureCause(code=found.code, cause=cause, next_step=next_step)


def command_text(output: CommandOutput) -> str:
    """The same for a model, but for the note: what was printed, where the rest is, how it ended."""
    cut = [f"[all of it: {uri}]" for uri in (output.stdout_uri, output.stderr_uri) if uri]
    how = ending(output, f"job {output.job_id}: ")
    return "\n".join([*printed(output), *cut, how, *_left(output)])


def _left(output: CommandOutput) -> list[str]:
    """What goes on, as a line: that of a server started with & is told like this."""
    if not output.left_running:
        return []
    count = len(output.left_running)
    shown = ", ".join(f"{each.pid} {each.command[:60]}" for each in output.left_running[:5])
    rest = f" and {count - 5} more" if count > 5 else ""
    verb = "1 program goes on" if count == 1 else f"{count} programs go on"
    return [f"{verb}: {shown}{rest} (output from now on is not kept)"]


def printed(output: ProgramOutput) -> list[str]:
    """What a program printed; its errors under a line that says so."""
    stdout, stderr = output.stdout.removesuffix("\n"), output.stderr.removesuffix("\n")
    return [*([stdout] if output.stdout else []), *([f"[stderr]\n{stderr}"] if stderr else [])]


def ending(output: CommandOutput, of: str = "") -> str:
    """How a program ended, and why it failed where that is known. `of` says which."""
    how = {
        JobState.EXITED: f"exit {output.exit_code}",
        JobState.SIGNALED: f"signaled {output.signal}",
    }.get(JobState(output.status), output.status)
    until = f", killed at {output.ends_at} at the latest" if output.ends_at else ""
    line = f"[{of}{how}{took(output.duration_ms)}{until}]"
    found = output.diagnosis
    if found is None or output.status == JobState.LOST:  # of a lost job its error tells the same
        return line
    return f"{line}\n{found.code}: {found.cause} {found.next_step}".rstrip()

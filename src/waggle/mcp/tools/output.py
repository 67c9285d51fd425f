# SPDX-License-Identifier: Apache-2.0
"""Show how a command ended: shared by execute and install_packages."""

from __future__ import annotations

from waggle.domain.execution import ExecutionResult
from waggle.mcp.budget import share
from waggle.mcp.results import CommandOutput


def command_output(result: ExecutionResult) -> CommandOutput:
    """The structured form, its streams cut to what every client accepts."""
    stdout, stderr = share(result.stdout, result.stderr)
    return CommandOutput(
        stdout=stdout.text(),
        stderr=stderr.text(),
        exit_code=result.exit_code,
        duration_ms=round(result.duration * 1000),
        signal=result.signal,
        timed_out=result.timed_out,
        stdout_bytes_cut=stdout.dropped,
        stderr_bytes_cut=stderr.dropped,
    )


def command_text(output: CommandOutput) -> str:
    """The text for a model: what was printed, then how it ended."""
    parts = [
        f"{name}:\n{text.removesuffix(chr(10))}"
        for name, text in (("stdout", output.stdout), ("stderr", output.stderr))
        if text
    ]
    return "\n".join([*(parts or ["(no output)"]), _ending(output)])


def _ending(output: CommandOutput) -> str:
    if output.timed_out:
        return f"timed out after {output.duration_ms} ms; its processes were killed"
    if output.signal is not None:
        return f"ended by signal {output.signal} after {output.duration_ms} ms"
    return f"exit code: {output.exit_code} ({output.duration_ms} ms)"

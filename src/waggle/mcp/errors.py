# SPDX-License-Identifier: Apache-2.0
"""Conversion of errors into tool results; no other module does it.

Called by `waggle.mcp.server` around every tool call. A user's mistake or a guest's failure becomes
`isError` with a text "message hint" and, under `_meta`, `{code, message, hint, retryable}`; its
structured content has the same only if there is more data than the error.
Anything that is not a WaggleError is logged under an error id, and the client sees only the id.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Final, cast

import structlog
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, CallToolResult, Result
from pydantic import ValidationError

from waggle.domain.errors import InvalidArgument, WaggleError
from waggle.domain.observer import OK
from waggle.mcp.tool_names import meant
from waggle.tasks import errors_in

log = structlog.get_logger(__name__)

ERROR_META_KEY = "waggle/error"
MAX_TEXT = 4_000
MAX_ECHO = 60
_MAX_PROBLEMS = 5
_ALIKE = 0.7
"""The similarity from which a name counts as a misspelling of another."""
_OTHER_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    word: names
    for words, names in (
        ("file file_path filepath filename dir_path folder paths target_file", ("path",)),
        ("directory dir", ("path", "cwd")),
        ("workdir working_dir working_directory workspace", ("cwd", "path")),
        ("command cmd script source program query args arguments", ("code", "command")),
        ("input", ("stdin", "code")),
        ("text body data file_text contents", ("content",)),
        ("old_string old_str search find old", ("old_text",)),
        ("new_string new_str replace replacement new", ("new_text",)),
        ("sandbox sandbox_id vm container environment env_id", ("environment_id",)),
        ("id", ("job_id", "environment_id")),
        ("job task_id process_id shell_id bash_id", ("job_id",)),
        ("timeout timeout_ms", ("timeout_seconds", "wait_seconds", "timeout_minutes")),
        ("wait block yield_time_ms", ("wait_seconds",)),
        ("run_in_background is_background detach", ("background",)),
        ("language template kernel", ("language", "runtime")),
        ("package name names libraries dependencies requirements modules", ("packages",)),
        ("internet internet_access allow_internet allow_network", ("network",)),
        ("memory ram", ("memory_mb",)),
        ("cpu", ("cpus",)),
        ("disk", ("disk_mb",)),
        ("as_root sudo root", ("user",)),
        ("tail start start_line view_range", ("offset",)),
        ("lines end_line max_lines", ("limit",)),
    )
    for word in words.split()
}
"""The names that models use for parameters with another name here."""
NO_PARAMETERS: Mapping[str, bool] = {}


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as clients see it: a stable code, a message, a hint, and whether to retry."""

    code: str
    message: str
    hint: str = ""
    retryable: bool = False
    retry_after: int | None = None
    """Seconds until a retry can succeed, if known."""

    @property
    def text(self) -> str:
        """The message and the hint, for a model to read."""
        return f"{self.message} {self.hint}".strip()

    def advised(self, advise: Callable[[str], str]) -> Failure:
        """Return the failure with the hint that `advise` leaves."""
        return replace(self, hint=advise(self.hint))

    def data(self) -> dict[str, str]:
        """Return the failure as structured content, which some clients show to a model."""
        facts = {"code": self.code, "message": self.message}
        return {**facts, "hint": self.hint} if self.hint else facts

    def meta(self) -> dict[str, Any]:
        """Return the machine-readable form, for the `_meta` of a result."""
        return {
            ERROR_META_KEY: {
                "code": self.code,
                "message": self.message,
                "hint": self.hint,
                "retryable": self.retryable,
                **({} if self.retry_after is None else {"retry_after_seconds": self.retry_after}),
            }
        }


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """Return `text` with control, format and surrogate characters replaced, cut to `limit`."""
    kept = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text[:limit])
    return kept if len(text) <= limit else f"{kept} [...]"


def outcome(result: Result) -> str:
    """Return `ok`, or the code of the failure in a result of waggle."""
    if not isinstance(result, CallToolResult) or not result.is_error:
        return OK
    return str((result.meta or {}).get(ERROR_META_KEY, {}).get("code"))


def refusal(error: MCPError) -> str:
    """Return the code of the failure in the data of a protocol error."""
    data: object = error.error.data
    ours = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
    return str(ours.get(ERROR_META_KEY, {}).get("code", "refused"))


def invalid(message: str, hint: str = "") -> MCPError:
    """Return the refusal of an invalid parameter other than a URI."""
    failure = describe("resources", InvalidArgument(message, hint=hint))
    return MCPError(code=INVALID_PARAMS, message=failure.text, data=failure.meta())


def unanswered(failure: Failure) -> MCPError:
    """Return the refusal of a valid request, for a reason such as the server's stop."""
    return MCPError(code=INTERNAL_ERROR, message=failure.text, data=failure.meta())


def describe(
    tool: str,
    error: BaseException,
    *,
    parameters: Mapping[str, bool] = NO_PARAMETERS,
    new_id: Callable[[], str] = lambda: secrets.token_hex(6),
) -> Failure:
    """Return the failure to send for `error`, which `tool` raised. Logs what clients must not see.

    `parameters` says which parameters the tool has, and whether one is required, by name.
    """
    cause = innermost(error)
    if isinstance(cause, WaggleError):
        log.info("tool_refused", tool=tool, code=cause.code, message=clean(cause.message, 300))
        message, hint = clean(cause.message), clean(cause.hint)
        return Failure(cause.code, message, hint, cause.retryable, cause.retry_after)
    if isinstance(cause, ValidationError) and cause is not error:
        return _arguments(tool, cause, parameters)
    error_id = new_id()
    log.error("tool_crashed", tool=tool, error_id=error_id, exc_info=cause)
    return Failure(
        "internal",
        f"Internal error {error_id} in {tool}.",
        "This is a fault of the server; its log has the details under this id.",
    )


def unknown_tool(name: str, known: Collection[str]) -> Failure:
    """Return the failure for an unknown tool: it names the tool that was meant, or all."""
    way = meant(name, known)
    return Failure(
        "unknown_tool",
        f"There is no tool {clean(name, MAX_ECHO)!r}.",
        f"Call {way}." if way else f"The tools are: {', '.join(known)}.",
    )


def innermost(error: BaseException) -> BaseException:
    """Return the original exception inside the SDK's wrapper and exception groups of one."""
    inner = errors_in(error)
    if inner != [error]:
        return innermost(inner[0]) if len(inner) == 1 else error
    if isinstance(error, ToolError) and error.__cause__ is not None:
        return innermost(error.__cause__)
    return error


def _arguments(tool: str, error: ValidationError, parameters: Mapping[str, bool]) -> Failure:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    said = list(
        dict.fromkeys(_problem(p["type"], p["loc"], p["msg"], parameters) for p in problems)
    )
    more = f" ({len(said) - _MAX_PROBLEMS} more)" if len(said) > _MAX_PROBLEMS else ""
    named = (f"{name} (required)" if must else name for name, must in parameters.items())
    hint = f"{tool} takes: {', '.join(named)}."
    message = f"{'; '.join(said[:_MAX_PROBLEMS])}{more}."
    return Failure("invalid_argument", message[0].upper() + message[1:], hint)


def _problem(
    kind: str, location: Sequence[int | str], message: str, known: Mapping[str, bool]
) -> str:
    inside = (str(part) for part in location[1:3] if isinstance(part, int))  # else pydantic's words
    name = clean(".".join([*map(str, location[:1]), *inside]), MAX_ECHO)
    if kind == "missing":
        return f"parameter {name!r} is missing"
    if kind == "extra_forbidden":
        others = [other for other in _OTHER_WORDS.get(name.lower(), ()) if other in known]
        likely = others or get_close_matches(name, known, 1, _ALIKE)
        return f"there is no parameter {name!r}{f' (did you mean {likely[0]}?)' if likely else ''}"
    return f"parameter {name!r}: {clean(message, 200)}"

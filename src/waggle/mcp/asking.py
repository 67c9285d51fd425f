# SPDX-License-Identifier: Apache-2.0
"""How a call asks the person at its client about connections: the form, and how it is sent.

`waggle.mcp.held` gives a tool a `CallContext` with an `Asker` if the client takes forms;
`waggle.mcp.context` waits for jobs with `waited`, which asks meanwhile. Until 2025-11-25 the form
is a request on the stream of the call, since 2026-07-28 the call returns it. Of the guest the
person sees host and port alone, which the proxy has made printable.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol

import anyio
import mcp_types
import structlog
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp_types import ClientCapabilities, ElicitRequest, ElicitRequestFormParams, ElicitResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import PrivateAttr, ValidationError
from starlette.requests import Request as HttpRequest

from waggle.domain.network.questions import Answer, Question
from waggle.large import ONE_ANSWER
from waggle.service.environments.questions import CannotAsk, Put, Questions

log = structlog.get_logger(__name__)

NameOf = Callable[[Question], str]
"""Returns the name of a question's environment."""
FIELD: Final = "answer"
SIDE_BY_SIDE: Final = 3
"""The forms that a call returns together."""
MOST_EXTENSIONS: Final = 5
"""How many times the seconds of a question a call may wait longer for its job."""
_MEANING: Final[Mapping[Answer, str]] = {
    Answer.ONCE: "once: now and for a minute",
    Answer.ENVIRONMENT: "environment: as long as it lives",
    Answer.ALWAYS: "always: every environment that asks",
    Answer.NO: "no",
}


def takes_forms(capabilities: ClientCapabilities | None) -> bool:
    """Whether a client lets servers ask its person with a form; `{}` means that, too."""
    given = capabilities.elicitation if capabilities else None
    return given is not None and (given.form is not None or given.url is None)


def hears_questions(ctx: Context[Any, Any]) -> bool:
    """Whether a request of the server reaches the client while its call is in progress.

    It does not if the client takes its answer as JSON, without a stream.
    """
    request: object = ctx.request_context.request
    has_stream = not isinstance(request, HttpRequest) or not request.scope.get(ONE_ANSWER)
    return has_stream and ctx.request_context.session.can_send_request


def form(question: Question, answers: tuple[Answer, ...], name: str) -> ElicitRequestFormParams:
    """Return the form of a question about the environment of that name."""
    allows = "Allow it?" if question.rule else "Allow it this once?"
    about = "; ".join(_MEANING[answer] for answer in answers)
    schema = {
        "type": "object",
        "properties": {
            FIELD: {
                "type": "string",
                "title": f"Allow {question.place}?",
                "description": f"{about}.",
                "enum": [str(answer) for answer in answers],
            }
        },
        "required": [FIELD],
    }
    message = f"Environment {name} wants to connect to {question.place}; no rule decides. {allows}"
    return ElicitRequestFormParams(message=message, requested_schema=schema)


def answer_in(result: ElicitResult) -> Answer:
    """Return what a person answered; dismissing the form, or an unknown word, is a no."""
    if result.action != "accept":
        return Answer.NO
    try:
        return Answer(str((result.content or {}).get(FIELD)))
    except ValueError:
        return Answer.NO


class Asker(Protocol):
    """The way to the person of one call."""

    @property
    def questions(self) -> Questions:
        """The questions of the server."""
        ...

    @property
    def at_once(self) -> int:
        """How many questions are put side by side."""
        ...

    async def put(self, question: Question) -> Answer | None:
        """Put a question; see `Put`."""
        ...


class CallContext(Context[Any, Any]):
    """The context of a call that can ask. `asker` is its way to the person.

    Progress goes to the request that waits now, if one does.
    """

    _asker: Asker = PrivateAttr()
    _now: Context[Any, Any] | None = PrivateAttr()

    def __init__(self, of: Context[Any, Any], asker: Asker) -> None:
        super().__init__(request_context=of.request_context, mcp_server=of.mcp_server)
        self._asker = asker
        self._now = of

    @property
    def asker(self) -> Asker:
        """The way to the person."""
        return self._asker

    def attach(self, request: Context[Any, Any] | None) -> None:
        """Send progress to another request; None while none waits."""
        self._now = request

    async def report_progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Report progress to the request that waits now."""
        if self._now is not None:
            await self._now.report_progress(progress, total, message)


class SessionAsker:
    """Asks by a request on the stream of the call, one after the other (until 2025-11-25)."""

    at_once = 1

    def __init__(self, ctx: Context[Any, Any], questions: Questions, name: NameOf) -> None:
        self._ctx = ctx.request_context
        self.questions = questions
        self._name = name

    async def put(self, question: Question) -> Answer | None:
        """Send the form and wait for its answer; cancelling tells the client that it is over.

        Raises CannotAsk if the client refuses, as one does that cannot show forms after all.
        """
        shown = form(question, self.questions.answers(question), self._name(question))
        try:
            result = await self._ctx.session.elicit_form(
                shown.message, shown.requested_schema, related_request_id=self._ctx.request_id
            )
        except (MCPError, ValidationError) as error:
            log.info("client_did_not_ask", error=type(error).__name__)
            raise CannotAsk from error
        return answer_in(result)


def is_modern(ctx: Context[Any, Any]) -> bool:
    """Whether the request's version has servers ask by the result of a call."""
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS


def elicited(shown: ElicitRequestFormParams) -> ElicitRequest:
    """Return a form as the result of a call carries it."""
    return mcp_types.ElicitRequest(params=shown)


class Waits(Protocol):
    """What a call waits for: a job."""

    @property
    def environment_id(self) -> str:
        """Where it runs."""
        ...

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        ...

    @property
    def is_paused(self) -> bool:
        """Whether its environment is paused."""
        ...

    async def wait(self, seconds: float) -> None:
        """Return when it has ended or is paused, or after `seconds`."""


async def waited(ctx: object, job: Waits, seconds: float) -> None:
    """Wait for a job as `job.wait` does, and ask the person of the call what it causes meanwhile.

    Without an end of the job, the time in which a question was open is waited once more, within
    bounds: the program could not go on. Cancelling withdraws what this call has asked.
    """
    if not isinstance(ctx, CallContext) or not seconds:
        return await job.wait(seconds)
    asker = ctx.asker
    async with anyio.create_task_group() as group:
        put: Put = asker.put
        group.start_soon(asker.questions.serve, job.environment_id, put, asker.at_once)
        await _patiently(asker.questions, job, seconds)
        group.cancel_scope.cancel()
    return None


async def _patiently(questions: Questions, job: Waits, seconds: float) -> None:
    desk = questions.desk(job.environment_id)
    before, most, given = desk.held, MOST_EXTENSIONS * questions.seconds, 0.0
    await job.wait(seconds)
    while job.is_running and not job.is_paused:
        while not desk.is_quiet and job.is_running and not job.is_paused:
            await _first(desk.changed, partial(job.wait, math.inf))
        more = min(desk.held - before, most) - given
        if more <= 0:
            return
        given += more
        await job.wait(more)


async def _first(*waits: Callable[[], Awaitable[None]]) -> None:
    """Return when the first of these does."""
    async with anyio.create_task_group() as group:

        async def until(wait: Callable[[], Awaitable[None]]) -> None:
            await wait()
            group.cancel_scope.cancel()

        for wait in waits:
            group.start_soon(until, wait)

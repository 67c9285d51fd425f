# SPDX-License-Identifier: Apache-2.0
"""Calls that return a form and go on: the tools' work of clients of 2026-07-28 that can ask.

`waggle.mcp.server` runs every tool through `Held.run`. A client of 2026-07-28 gets a question as
the result of its call, and calls again with the answer: the work is in a task of its own, which
waits, and the same call again attaches to it. The state that the client brings is the id of that
task, sealed and bound to call and owner by the SDK; it begins nothing. Work that nobody comes back
for is ended. Clients of earlier versions are asked within their call. Clients that take no forms,
and those of earlier versions that take no event stream, are not asked at all.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
from mcp.server.mcpserver import Context
from mcp_types import ElicitResult, InputRequests, InputRequiredResult

from waggle.domain.errors import Busy, NotFound
from waggle.domain.network.questions import Answer, Question
from waggle.mcp.asking import (
    SIDE_BY_SIDE,
    CallContext,
    NameOf,
    SessionAsker,
    answer_in,
    elicited,
    form,
    hears_questions,
    is_modern,
    takes_forms,
)
from waggle.mcp.observed import ToolResult
from waggle.service.environments.questions import CannotAsk, Questions
from waggle.tasks import finish

LINGER_SECONDS: Final = 60.0
"""How long work without a caller is kept after the time for an answer."""
MOST_ALONE: Final = 16
"""The most pieces of work of one owner without a caller; of more, the first left is ended."""
MOST_ROUNDS: Final = 8
"""How often a call returns a form. Clients give up after 10."""
GATHER_SECONDS: Final = 0.1
"""Questions that come so soon after the first are asked together."""
_LATE: Final = 16
Work = Callable[[Context[Any, Any]], Awaitable[ToolResult]]
"""Runs the tool and returns its result. Must be bounded when cancelled."""


class FormAsker:
    """Collects forms for the result of a call, and takes the answers of the next one."""

    at_once = SIDE_BY_SIDE

    def __init__(self, questions: Questions, name: NameOf) -> None:
        self.questions = questions
        self._name = name
        self._asked: dict[str, Question] = {}
        self._waiting: dict[str, asyncio.Future[Answer]] = {}
        self._new: set[str] = set()
        self.rounds = 0
        self.changed = asyncio.Event()

    @property
    def has_new(self) -> bool:
        """Whether there is a form that the client has not got."""
        return bool(self._new)

    async def put(self, question: Question) -> Answer | None:
        """Leave the form for the result of the call, and wait until another brings its answer.

        Raises CannotAsk after MOST_ROUNDS.
        """
        if self.rounds >= MOST_ROUNDS:
            raise CannotAsk
        key = f"network-{question.number}"
        answer = self._waiting[key] = asyncio.get_running_loop().create_future()
        self._asked[key] = question
        self._new.add(key)
        self.changed.set()
        try:
            return await answer
        finally:
            del self._waiting[key]
            self._new.discard(key)
            for late in [key for key in self._asked if key not in self._waiting][:-_LATE]:
                del self._asked[late]

    def take(self) -> InputRequests:
        """Return the forms that the client has not got."""
        self.rounds += 1
        keys, self._new = sorted(self._new), set()
        self.changed.clear()
        questions = {key: self._asked[key] for key in keys}
        return {
            key: elicited(form(one, self.questions.answers(one), self._name(one)))
            for key, one in questions.items()
        }

    async def deliver(self, ctx: Context[Any, Any]) -> None:
        """Take the answers that a request brings, also late ones; others are ignored."""
        for key, result in (ctx.input_responses or {}).items():
            if not isinstance(result, ElicitResult):
                continue
            waiting = self._waiting.get(key)
            if waiting is not None and not waiting.done():
                del self._asked[key]
                waiting.set_result(answer_in(result))
            elif waiting is None and (question := self._asked.pop(key, None)) is not None:
                await self.questions.decide(question, answer_in(result))


class _Piece:
    """One call's work, and the request that waits for it, if one does."""

    def __init__(self, owner: str, context: CallContext, asker: FormAsker, work: Work) -> None:
        self.owner = owner
        self.context = context
        self.asker = asker
        self._scope = anyio.CancelScope()
        self.task: asyncio.Future[ToolResult] = asyncio.ensure_future(self._run(work))
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        self.timer: asyncio.TimerHandle | None = None
        self.is_followed = False

    async def _run(self, work: Work) -> ToolResult:
        with self._scope:
            return await work(self.context)
        raise asyncio.CancelledError

    def cancel(self) -> None:
        """Cancel the work, but for what it shields.

        `Task.cancel` would break off a restart between two machines, and lose the disk.
        """
        self._scope.cancel()

    async def next(self) -> InputRequests | None:
        """Wait for its end, or for forms to return. Cancelling ends the wait only."""
        while not self.task.done():
            if self.asker.has_new:
                await asyncio.wait({self.task}, timeout=GATHER_SECONDS)
                if not self.task.done() and self.asker.has_new:
                    return self.asker.take()
            self.asker.changed.clear()
            changed = asyncio.ensure_future(self.asker.changed.wait())
            try:
                await asyncio.wait({self.task, changed}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
        return None


class Held:
    """The calls of one server."""

    def __init__(self, questions: Questions, name: NameOf, linger: float = LINGER_SECONDS) -> None:
        self._questions = questions
        self._name = name
        self._linger = linger
        self._pieces: dict[str, _Piece] = {}

    def __len__(self) -> int:
        return len(self._pieces)

    async def run(self, owner: str, ctx: Context[Any, Any], work: Work) -> ToolResult:
        """Run a tool's work, or go on with that which the request's state names.

        Returns the work's result or a form. Cancelling cancels the work, and returns when it has
        ended. Raises what it raises, NotFound if the state names none of the owner's, and Busy if
        another request waits for it.
        """
        if not is_modern(ctx):
            if not (takes_forms(ctx.client_capabilities) and hears_questions(ctx)):
                return await work(ctx)
            return await work(CallContext(ctx, SessionAsker(ctx, self._questions, self._name)))
        if ctx.request_state is not None:
            number = ctx.request_state
            piece = self._found(owner, number)
        elif takes_forms(ctx.client_capabilities):
            number = secrets.token_urlsafe(16)
            asker = FormAsker(self._questions, self._name)
            piece = self._pieces[number] = _Piece(owner, CallContext(ctx, asker), asker, work)
        else:
            return await work(ctx)
        return await self._follow(number, piece, ctx)

    def _found(self, owner: str, number: str) -> _Piece:
        piece = self._pieces.get(number)
        if piece is None or piece.owner != owner:
            raise NotFound(
                "The call that asked is over: its answer came too late.",
                hint="read_job shows whether its program still runs. Or call again.",
            )
        if piece.is_followed:
            raise Busy("Another request waits for this call.")
        return piece

    async def _follow(self, number: str, piece: _Piece, ctx: Context[Any, Any]) -> ToolResult:
        piece.is_followed = True
        if piece.timer is not None:
            piece.timer.cancel()
        piece.context.attach(ctx)
        try:
            await piece.asker.deliver(ctx)
            forms = await piece.next()
            if forms is None and piece.task.cancelled():
                raise NotFound("The server ended this call.", hint="Call again.")
            if forms is None:
                return piece.task.result()
        except BaseException:
            piece.cancel()
            await finish(asyncio.wait({piece.task}))
            raise
        finally:
            piece.is_followed = False
            piece.context.attach(None)
            if piece.task.done():
                del self._pieces[number]
        self._leave(number, piece)
        return InputRequiredResult(input_requests=forms, request_state=number)

    def _leave(self, number: str, piece: _Piece) -> None:
        loop = asyncio.get_running_loop()
        seconds = self._questions.seconds + self._linger
        piece.timer = loop.call_later(seconds, self._drop, number)
        alone = [
            (other.timer.when(), number)
            for number, other in self._pieces.items()
            if other.owner == piece.owner and other.timer and not other.is_followed
        ]
        for _, first_left in sorted(alone)[:-MOST_ALONE]:
            self._drop(first_left)

    def close(self) -> None:
        """End the work that no request waits for: the server stops."""
        for number in [number for number, piece in self._pieces.items() if not piece.is_followed]:
            self._drop(number)

    def _drop(self, number: str) -> None:
        """End work that nobody waits for; its result, or error, is forgotten."""
        piece = self._pieces.pop(number)
        if piece.timer is not None:
            piece.timer.cancel()
        piece.cancel()

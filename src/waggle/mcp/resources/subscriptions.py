# SPDX-License-Identifier: Apache-2.0
"""Subscriptions to changes: resources/subscribe of 2025 sessions, subscriptions/listen of 2026.

Called by this package. A session or stream has one `Watcher`, which is closed with it. A client can
only watch resources that it may read, and directories: another URI is refused, or left out of a
stream's acknowledgement. Files are watched before the answer, so that no later change is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import anyio.abc
from mcp.server.subscriptions import ListenHandler, ServerEvent
from mcp.shared.subscriptions import ResourceUpdated
from mcp_types import (
    EmptyResult,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    UnsubscribeRequestParams,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from waggle.domain.access import Owner
from waggle.domain.errors import InvalidArgument, WaggleError
from waggle.mcp.context import Request, Services, owner_of
from waggle.mcp.errors import invalid
from waggle.mcp.resources.changes import Changes, Event, Key, Watcher
from waggle.mcp.sdk import Connection, connection_of
from waggle.mcp.uris import (
    Address,
    DisplaysAddress,
    EnvironmentAddress,
    FileAddress,
    Range,
    StreamAddress,
    parse_uri,
)

MAX_SUBSCRIPTIONS = 100
"""The most resources that one session or one stream may watch."""
MAX_STREAMS = 200
"""The most streams that one owner may keep open."""
TASKS = "tasks"
"""The key of the task group for sending, in the server's lifespan context."""


class Subscriptions:
    """The handlers of subscriptions.

    `address_of` returns the address that a URI names; it raises NotFound or InvalidArgument.
    """

    def __init__(
        self, services: Services, changes: Changes, address_of: Callable[[str], Address]
    ) -> None:
        self._services = services
        self._changes = changes
        self._address_of = address_of
        self._streams: dict[Owner, int] = {}

    async def subscribe(self, ctx: Request, params: SubscribeRequestParams) -> EmptyResult:
        """Subscribe to a resource until the session ends. Idempotent."""
        owner = owner_of(ctx)
        key = self._known_key(params.uri, owner)
        watcher = self._of_session(ctx, owner)
        if watcher is None:
            raise InvalidArgument(
                "Only a session can subscribe.", hint="Initialize one, or read it again."
            )
        if key not in watcher and len(watcher) >= MAX_SUBSCRIPTIONS:
            raise InvalidArgument(
                f"This session has {MAX_SUBSCRIPTIONS} subscriptions.",
                hint="Unsubscribe from those that have ended.",
            )
        is_new = key not in watcher
        watcher.add(key, params.uri)
        try:
            await self._begin(key, owner)
        except BaseException:
            if is_new:
                watcher.remove(key)
            raise
        return EmptyResult()

    async def _begin(self, key: Key, owner: Owner) -> None:
        """Have a file or directory watched that a watcher has; `Changes` ends it."""
        if isinstance(key, FileAddress):
            await self._services.watches.begin(key.environment_id, key.path, owner=owner)

    async def unsubscribe(self, ctx: Request, params: UnsubscribeRequestParams) -> EmptyResult:
        """End a subscription. Idempotent, also for resources that are gone."""
        watcher = self._of_session(ctx, owner_of(ctx))
        try:
            key = _key(parse_uri(params.uri))
        except InvalidArgument:
            key = None
        if watcher is not None and key is not None:
            watcher.remove(key)
        return EmptyResult()

    def listed(self, ctx: Request, owner: Owner) -> None:
        """Notify a session that has read the list of its changes from now on."""
        watcher = self._of_session(ctx, owner)
        if watcher is not None:
            watcher.add_list()

    async def listen(
        self, ctx: Request, params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        """Serve one stream of 2026-07-28, until the client closes it. Raises MCPError."""
        owner = owner_of(ctx)
        uris = params.notifications.resource_subscriptions or []
        if len(uris) > MAX_SUBSCRIPTIONS:
            raise invalid(f"A stream takes at most {MAX_SUBSCRIPTIONS} resources.")
        if self._streams.get(owner, 0) >= MAX_STREAMS:
            raise invalid(f"{MAX_STREAMS} streams are open.", "Close one first.")
        known = self._known(uris, owner)
        bus = _Bus(self._changes, owner, ctx)
        self._streams[owner] = self._streams.get(owner, 0) + 1
        try:
            await self._add_all(bus.watcher, known, owner)
            honoured = params.notifications.model_copy(
                update={
                    "resource_subscriptions": [known[key] for key in known if key in bus.watcher]
                }
            )
            return await ListenHandler(bus)(
                ctx, params.model_copy(update={"notifications": honoured})
            )
        finally:
            bus.watcher.close()
            self._streams[owner] -= 1
            if not self._streams[owner]:
                del self._streams[owner]

    async def _add_all(self, watcher: Watcher, known: Mapping[Key, str], owner: Owner) -> None:
        """Watch all of them but the files that cannot be."""

        async def begin(key: Key) -> None:
            try:
                await self._begin(key, owner)
            except WaggleError:
                watcher.remove(key)

        for key, uri in known.items():
            watcher.add(key, uri)
        async with anyio.create_task_group() as group:
            for key in known:
                group.start_soon(begin, key)

    def _known(self, uris: list[str], owner: Owner) -> Mapping[Key, str]:
        known: dict[Key, str] = {}
        for uri in uris:
            try:
                known[self._known_key(uri, owner)] = uri
            except WaggleError:
                continue
        return known

    def _known_key(self, uri: str, owner: Owner) -> Key:
        """Return the key of a URI to watch. Raises NotFound, JobNotFound or InvalidArgument."""
        key = _key(self._address_of(uri))
        if isinstance(key, StreamAddress | DisplaysAddress):
            self._services.jobs.known(key.environment_id, key.number, owner=owner)
        elif key is not None:
            self._services.environments.get(key.environment_id, owner=owner)
        else:
            raise InvalidArgument(
                "This cannot be subscribed to.",
                hint="Environments, files, directories, and streams and lists of displays of "
                "executions can, without a query; nothing else.",
            )
        return key

    def _of_session(self, ctx: Request, owner: Owner) -> Watcher | None:
        """Return the session's watcher, and make it if needed; None without a lasting session."""
        connection = connection_of(ctx)
        lasts = connection.session_id is not None or ctx.request is None
        if ctx.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS or not lasts:
            return None
        name = f"waggle/watcher/{owner}"
        watcher = cast("Watcher | None", connection.state.get(name))
        if watcher is None:
            tasks: anyio.abc.TaskGroup = ctx.lifespan_context[TASKS]
            watcher = self._changes.watch(owner, _sender(connection), tasks)
            connection.state[name] = watcher
            connection.exit_stack.callback(watcher.close)
        return watcher


class _Bus:
    """The events of one owner, paced, in the form that the SDK's stream handler takes."""

    def __init__(self, changes: Changes, owner: Owner, ctx: Request) -> None:
        tasks: anyio.abc.TaskGroup = ctx.lifespan_context[TASKS]
        self.watcher = changes.watch(owner, self._send, tasks)
        self._listener: Callable[[ServerEvent], None] = _ignored

    async def _send(self, event: Event) -> None:
        self._listener(event)

    async def publish(self, event: ServerEvent) -> None:
        """Do nothing: events come from the services."""

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        """Pass the watcher's events on, and return the function that closes it."""
        self._listener = listener
        self.watcher.add_list()  # the handler drops these if the stream did not request them
        return self.watcher.close


def _ignored(_event: ServerEvent) -> None:
    """Drop an event from before the acknowledgement: clients read what they watch after it."""


def _key(address: Address | None) -> Key | None:
    if (
        isinstance(address, StreamAddress | DisplaysAddress | FileAddress)
        and address.part == Range()
    ):
        return address
    return address if isinstance(address, EnvironmentAddress) else None


def _sender(connection: Connection) -> Callable[[Event], Any]:
    async def send(event: Event) -> None:
        if isinstance(event, ResourceUpdated):
            await connection.send_resource_updated(event.uri)
        else:
            await connection.send_resource_list_changed()

    return send

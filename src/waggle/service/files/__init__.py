# SPDX-License-Identifier: Apache-2.0
"""Files in and out of an environment, and hints at what is near a path that does not exist.

Called by `waggle.mcp`, `files.trees` and `programs.jobs`. Knows limits, but nothing of SFTP.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import anyio
import anyio.to_thread

from waggle.domain.errors import FileNotFound, FileRefused, TooLarge, WaggleError
from waggle.domain.files import (
    EMPTY_PLACES,
    MAX_FILE_BYTES,
    FileSlice,
    Listing,
    at_home,
    check_content,
    describe_nearest,
    parents,
    parse_mode,
    parse_path,
)
from waggle.domain.files.edit import Edited, replace_exactly
from waggle.domain.files.search import Searched, SearchQuery, glob_below
from waggle.domain.host import Guest
from waggle.domain.programs import HOME, GuestUser
from waggle.service.environments.service import EnvironmentService

SECONDS: Final = 5.0


@asynccontextmanager
async def nearby(guest: Guest, path: str) -> AsyncGenerator[None]:
    """Add to a FileNotFound of the block what the nearest directory of `path` contains."""
    try:
        yield
    except FileNotFound as error:
        if words := await _near(guest, path):
            raise FileNotFound(f"{error.message} {words}", hint="") from error
        raise


async def _near(guest: Guest, path: str) -> str:
    """Describe the nearest directory; empty if the guest fails or takes over SECONDS."""
    with anyio.move_on_after(SECONDS), contextlib.suppress(WaggleError):
        for directory in parents(path):
            if directory in EMPTY_PLACES:
                directory = await guest.home()  # noqa: PLW2901 - described in its place
            try:
                return describe_nearest(path, await guest.list_files(directory))
            except FileNotFound:
                continue
            except FileRefused as error:
                return error.message
    return ""


async def located(guest: Guest, path: str, user: GuestUser = GuestUser.SANDBOX) -> str:
    """Return a parsed path as an absolute one; asks the guest only for `~`. Raises GuestLost."""
    return at_home(path, await guest.home(user)) if path.startswith("~") else path


class FilesystemService:
    """Write, read, edit, list and search files, as the user that programs run as in the guest."""

    def __init__(self, environments: EnvironmentService) -> None:
        self._environments = environments

    def check(self, path: str, data: bytes, mode: str | int | None) -> None:
        """Raise the argument errors of `write`, before there is an environment."""
        parse_path(path)
        check_content(data)
        if mode:
            parse_mode(mode)

    async def write(
        self,
        environment_id: str,
        path: str,
        data: bytes,
        *,
        owner: str,
        mode: str | int | None = None,
    ) -> str:
        """Write a file and return its absolute path; parents are made. Idempotent.

        Without `mode` a file keeps its mode, and a new one gets 0644. A link is written through.

        Raises TooLarge over 10 MiB, InvalidArgument, FileRefused, NotFound, NotRunning, GuestLost.
        """
        target = parse_path(path)
        bits = None if mode is None else parse_mode(mode)
        check_content(data)
        async with self._environments.using(environment_id, owner=owner) as (_, guest):
            target = await located(guest, target)
            await guest.write_file(target, data, bits)
        return target

    async def read(
        self,
        environment_id: str,
        path: str,
        *,
        owner: str,
        offset: int = 0,
        length: int = MAX_FILE_BYTES,
    ) -> tuple[str, FileSlice]:
        """Read a part of a file of at most 10 MiB; return its absolute path and the part.

        Raises FileNotFound, FileRefused, TooLarge, InvalidArgument, NotFound, NotRunning or
        GuestLost.
        """
        target = parse_path(path)
        async with self._environments.using(environment_id, owner=owner) as (_, guest):
            target = await located(guest, target)
            async with nearby(guest, target):
                part = await guest.read_file(
                    target, offset=offset, length=length, limit=MAX_FILE_BYTES
                )
        return target, part

    async def list(self, environment_id: str, path: str | None, *, owner: str) -> Listing:
        """List a directory, the home directory by default. Raises as `read` does."""
        target = HOME if path is None else parse_path(path)
        async with self._environments.using(environment_id, owner=owner) as (_, guest):
            target = await located(guest, target)
            async with nearby(guest, target):
                return await guest.list_files(target)

    async def search(self, environment_id: str, query: SearchQuery, *, owner: str) -> Searched:
        """Find files and lines. Raises FileNotFound, FileRefused, InvalidArgument and as `read`."""
        target = parse_path(query.path)
        async with self._environments.using(environment_id, owner=owner) as (_, guest):
            target = await located(guest, target)
            name = query.name
            if name and name.startswith(("/", "~/")):
                name = glob_below(await located(guest, parse_path(name)), target)
            async with nearby(guest, target):
                return await guest.search(replace(query, path=target, name=name))

    async def edit(
        self,
        environment_id: str,
        path: str,
        old: str,
        new: str,
        *,
        owner: str,
        replace_all: bool = False,
    ) -> tuple[str, Edited]:
        """Replace the only occurrence of `old`, or all of them; the file keeps its mode.

        Not idempotent. Raises as `read` and `write` do, InvalidArgument if `old` does not fit, and
        FileRefused if the file's size or time shows that it changed meanwhile.
        """
        target = parse_path(path)
        async with self._environments.using(environment_id, owner=owner) as (_, guest):
            target = await located(guest, target)
            async with nearby(guest, target):
                data, version = await guest.read_version(target, limit=MAX_FILE_BYTES)
            edited = await anyio.to_thread.run_sync(
                lambda: replace_exactly(data, old, new, replace_all=replace_all)
            )
            if len(edited.data) > MAX_FILE_BYTES:
                raise TooLarge(
                    f"The file would have {len(edited.data)} bytes; the limit is {MAX_FILE_BYTES}.",
                    hint="Change it with a program, inside the environment.",
                )
            await guest.write_file(target, edited.data, unless_changed=version)
        return target, edited

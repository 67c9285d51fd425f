# SPDX-License-Identifier: Apache-2.0
"""Registry credentials from other tools' files and credential helpers.

Called by `client`, once per registry and pull. Reads auth.json as in containers-auth.json(5) and
Docker's config.json: `auths` by registry or registry/path (the most specific entry counts),
`credHelpers` and `credsStore`. A helper runs as `docker-credential-NAME get` with the server's name
on standard input: without a shell, with a checked name, bounded output and time. Secrets and helper
output appear in no repr, message or log line.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import os
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from waggle.domain.errors import ImageUnavailable, SettingsInvalid
from waggle.tasks import finish

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_OUTPUT = 64 * 1024
_NOT_FOUND = (b"credentials not found", b"no credentials")
HELPER_SECONDS = 20.0


async def from_helper(
    name: str, server: str, timeout: float = HELPER_SECONDS
) -> Credentials | None:
    """Return the credentials for `server` from a helper; None when it has none.

    `timeout` is in seconds. The helper's process group is killed and reaped before this returns.
    Raises SettingsInvalid for a malformed name, ImageUnavailable when the helper fails.
    """
    if not _NAME.fullmatch(name):
        raise SettingsInvalid(f"{name[:80]!a} is not the name of a credential helper.")
    program = f"docker-credential-{name}"
    code, output = await _run(program, server.encode(), timeout)
    if code != 0 and any(words in output.lower() for words in _NOT_FOUND):
        return None
    answer = _parse(output) if code == 0 else None
    if answer is None:
        raise ImageUnavailable(
            f"{program} did not give the credentials for {server} (exit code {code}).",
            hint=f"Try: echo {server} | {program} get",
        )
    return answer


def _parse(output: bytes) -> Credentials | None:
    try:
        value: object = json.loads(output)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    fields = cast("dict[str, object]", value)
    user, secret = fields.get("Username"), fields.get("Secret")
    if not isinstance(user, str) or not isinstance(secret, str):
        return None
    return Credentials(identity_token=secret) if user == "<token>" else Credentials(user, secret)


async def _run(program: str, stdin: bytes, timeout: float) -> tuple[int, bytes]:
    """Return exit code and output, or code -1 when the output is too long.

    Input is a file and output our own pipe, so that asyncio waits for the program alone and not for
    other processes that it left behind with its pipes.
    """
    reader, writer = os.pipe()
    try:
        with os.fdopen(reader, "rb") as pipe, _file_of(stdin) as source:
            process = await _start(program, source, writer)
            os.close(writer)
            writer = -1
            try:
                async with asyncio.timeout(timeout):
                    output = await _read_all(pipe)
                    return (-1, b"") if output is None else (await process.wait(), output)
            except TimeoutError:
                raise ImageUnavailable(f"{program} did not answer in {timeout:g} s.") from None
            finally:
                await finish(_end(process))
    finally:
        if writer >= 0:
            os.close(writer)


def _file_of(data: bytes) -> BinaryIO:
    file = os.fdopen(os.memfd_create("stdin", os.MFD_CLOEXEC), "w+b")
    file.write(data)
    file.seek(0)
    return file


async def _start(program: str, stdin: BinaryIO, stdout: int) -> asyncio.subprocess.Process:
    start = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            program,
            "get",
            stdin=stdin,
            stdout=stdout,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(start)
    except OSError as error:
        raise ImageUnavailable(
            f"{program} cannot be started: {error.strerror}.",
            hint="An auth file names this credential helper; install it or change the file.",
        ) from error
    except asyncio.CancelledError:
        await finish(_abandon(start))
        raise


async def _read_all(pipe: BinaryIO) -> bytes | None:
    """Read to the end; None when there is more than a helper's answer may have."""
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader(limit=_MAX_OUTPUT)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), pipe)
    try:
        output = b""
        while len(output) <= _MAX_OUTPUT:
            chunk = await stream.read(_MAX_OUTPUT)
            if not chunk:
                return output
            output += chunk
        return None
    finally:
        transport.close()


async def _abandon(start: asyncio.Future[asyncio.subprocess.Process]) -> None:
    with contextlib.suppress(OSError):
        await _end(await start)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the group before its leader is reaped, so that the number is still its own."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


_MAX_FILE = 1 << 20

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Credentials:
    """Our account at one registry: a user with a password, an identity token or a ready token."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """Sent to the token service instead of a password (OAuth 2 refresh token)."""
    registry_token: str = field(default="", repr=False)
    """Sent to the registry unchanged."""

    def basic(self) -> str:
        """Return the value of an Authorization header with user name and password."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")


async def find_credentials(files: tuple[Path, ...], name: str) -> Credentials | None:
    """Find the entry for `registry/repository`; None when no file has one.

    Missing files are skipped. Raises SettingsInvalid when one cannot be read or is malformed,
    ImageUnavailable when a credential helper fails.
    """
    for path in files:
        document = await asyncio.to_thread(_read, path)
        found = await _in_file(document, name, path)
        if found is not None:
            return found
    return None


def _read(path: Path) -> Json:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        reason = error.strerror or "unreadable"
        raise SettingsInvalid(f"The credentials in {path} cannot be read: {reason}.") from None
    try:
        value: object = json.loads(data[:_MAX_FILE]) if len(data) <= _MAX_FILE else None
    except (ValueError, RecursionError):
        value = None  # `from` would keep the file's text
    if not isinstance(value, dict):
        raise SettingsInvalid(f"The credentials in {path} are not a JSON object.")
    return cast("Json", value)


async def _in_file(document: Json, name: str, path: Path) -> Credentials | None:
    helpers, entries = _object(document.get("credHelpers")), _by_name(document)
    for key in scopes_of(name):
        helper = helpers.get(key)
        found = None
        if isinstance(helper, str) and helper:
            found = await from_helper(helper, key)
        if found is None and key in entries:
            found = _from_entry(entries[key], path)
        if found is not None:
            return found
    store = document.get("credsStore")
    if isinstance(store, str) and store:
        return await from_helper(store, scopes_of(name)[-1])
    return None


def scopes_of(name: str) -> list[str]:
    """Return `host/a/b`, `host/a`, `host` for `host/a/b`: the keys that may hold credentials."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _by_name(document: Json) -> dict[str, Json]:
    """Return the entries of `auths` by name; Docker also writes names as URLs of its API."""
    entries: dict[str, Json] = {}
    for key, value in _object(document.get("auths")).items():
        entries.setdefault(_normal(key), _object(value))
    # A name spelt as in references takes precedence over a URL.
    entries |= {key: _object(v) for key, v in _object(document.get("auths")).items()}
    return entries


def _normal(key: str) -> str:
    bare = key.removeprefix("https://").removeprefix("http://").rstrip("/")
    host, _, version = bare.partition("/")
    return host if version in {"v1", "v2"} else bare


def _from_entry(entry: Json, path: Path) -> Credentials | None:
    """Read one entry; None for the empty ones that Docker keeps beside a credsStore."""
    token, ready = _text(entry.get("identitytoken")), _text(entry.get("registrytoken"))
    user, password = _text(entry.get("username")), _text(entry.get("password"))
    encoded = _text(entry.get("auth"))
    if encoded:
        try:
            plain = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError, ValueError):
            plain = ""
        user, colon, password = plain.partition(":")
        if not colon:
            raise SettingsInvalid(
                f"An entry 'auth' in {path} is not the Base64 of user:password."
            ) from None
        password = password.rstrip("\0")
    if not (user or token or ready):
        return None
    return Credentials(user, password, token, ready)


def _object(value: object) -> Json:
    return cast("Json", value) if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""

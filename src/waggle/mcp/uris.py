# SPDX-License-Identifier: Apache-2.0
"""The URIs of resources: building, parsing and templates. Pure; no other module does this.

Called by `waggle.mcp.resources`, `offered` and `results`. File names are percent-encoded in a URI
and decoded without change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from waggle.domain.errors import InvalidArgument
from waggle.domain.names import parse_id
from waggle.domain.programs.job import StreamName
from waggle.mcp.results.pages import MAX_PATTERN

ENVIRONMENT_TEMPLATE = "waggle://environments/{id}"
NETWORK_TEMPLATE = "waggle://environments/{id}/network"
STREAM_TEMPLATE = "waggle://environments/{id}/executions/{n}/{stream}{?offset,length,search}"
DISPLAYS_TEMPLATE = "waggle://environments/{id}/executions/{n}/displays{?offset,length}"
DISPLAY_TEMPLATE = "waggle://environments/{id}/executions/{n}/displays/{k}{?offset,length}"
FORM_TEMPLATE = "waggle://environments/{id}/executions/{n}/displays/{k}/{+form}{?offset,length}"
FILE_TEMPLATE = "waggle://environments/{id}/files/{+path}{?offset,length}"
ARCHIVE_TEMPLATE = "waggle://environments/{id}/archives/{archive}{?offset,length}"
ARCHIVE_TYPE = "application/gzip"
MAX_URI = 16_384
"""Characters: enough for the longest path with every byte percent-encoded."""

_PREFIX = "waggle://environments/"
_NUMBER = re.compile(r"-?[0-9]{1,15}")
_JOB = re.compile(r"[1-9][0-9]{0,8}")
_ARCHIVE = re.compile(r"[0-9a-f]{16}")
_FORM = r"[a-z0-9][a-z0-9._+-]{0,62}(?:/[a-z0-9][a-z0-9._+-]{0,126})?"
_DISPLAYS = re.compile(rf"displays(?:/([1-9][0-9]{{0,8}})(?:/({_FORM}))?)?")
CHART = "chart"
"""The form of a display that is the data of its chart; all other forms are media types."""


@dataclass(frozen=True, slots=True)
class Range:
    """The requested part; `offset` below 0 counts from the end of a stream."""

    offset: int = 0
    length: int | None = None
    search: str | None = None


@dataclass(frozen=True, slots=True)
class EnvironmentAddress:
    """An environment with its executions."""

    environment_id: str


@dataclass(frozen=True, slots=True)
class NetworkAddress:
    """What an environment has made of its network."""

    environment_id: str


@dataclass(frozen=True, slots=True)
class StreamAddress:
    """One output stream of an execution."""

    environment_id: str
    number: int
    stream: StreamName
    part: Range = field(default=Range())


@dataclass(frozen=True, slots=True)
class DisplaysAddress:
    """The list of displays of an execution."""

    environment_id: str
    number: int
    part: Range = field(default=Range())


@dataclass(frozen=True, slots=True)
class DisplayAddress:
    """A display of an execution: all of it or, with a `form`, one representation or its chart."""

    environment_id: str
    number: int
    index: int
    form: str = ""
    part: Range = field(default=Range())


@dataclass(frozen=True, slots=True)
class FileAddress:
    """A file of the guest, by its absolute path."""

    environment_id: str
    path: str
    part: Range = field(default=Range())


@dataclass(frozen=True, slots=True)
class ArchiveAddress:
    """An archive of a file tree of the guest."""

    environment_id: str
    archive_id: str
    part: Range = field(default=Range())


Address = (
    EnvironmentAddress
    | NetworkAddress
    | StreamAddress
    | DisplaysAddress
    | DisplayAddress
    | FileAddress
    | ArchiveAddress
)


def environment_uri(environment_id: str) -> str:
    """Return the URI of an environment."""
    return f"{_PREFIX}{quote(environment_id, safe='')}"


def network_uri(environment_id: str) -> str:
    """Return the URI of what an environment has made of its network."""
    return f"{environment_uri(environment_id)}/network"


def output_uri(environment_id: str, number: int, stream: StreamName) -> str:
    """Return the URI of a whole output stream."""
    return f"{environment_uri(environment_id)}/executions/{number}/{stream}"


def displays_uri(environment_id: str, number: int) -> str:
    """Return the URI of the list of an execution's displays."""
    return f"{environment_uri(environment_id)}/executions/{number}/displays"


def display_uri(environment_id: str, number: int, index: int, form: str = "") -> str:
    """Return the URI of a display, or of one form of it: a media type or CHART."""
    whole = f"{displays_uri(environment_id, number)}/{index}"
    return f"{whole}/{form}" if form else whole


def file_uri(environment_id: str, path: str) -> str:
    """Return the URI of a file; `path` is absolute.

    Characters that are not Unicode are replaced: a client cannot name files with them.
    """
    name = path.lstrip("/").encode("utf-8", "replace")
    return f"{environment_uri(environment_id)}/files/{quote(name)}"


def archive_uri(environment_id: str, archive_id: str) -> str:
    """Return the URI of an archive, which is valid while the archive is kept."""
    return f"{environment_uri(environment_id)}/archives/{archive_id}"


def parse_uri(uri: str) -> Address | None:
    """Return the address that a URI names, which may not exist; None for an unknown URI.

    Raises InvalidArgument for a query that its template does not have.
    """
    if len(uri) > MAX_URI or not uri.startswith(_PREFIX) or "#" in uri:
        return None
    whole, marked, query = uri.removeprefix(_PREFIX).partition("?")
    environment_id, _, rest = whole.partition("/")
    kind, _, rest = rest.partition("/")
    try:
        environment_id = parse_id(environment_id)
    except InvalidArgument:
        return None
    match kind:
        case "network":
            return NetworkAddress(environment_id) if not rest and not marked else None
        case "executions":
            number, _, rest = rest.partition("/")
            return _execution(environment_id, number, rest, query)
        case "files":
            return _file(environment_id, rest, query)
        case "archives":
            return _archive(environment_id, rest, query)
        case _:
            return EnvironmentAddress(environment_id) if not kind and not marked else None


def environment_in(uri: str) -> str | None:
    """Return the environment of a URI, ignoring its query; None for an unknown URI."""
    address = parse_uri(uri.partition("?")[0])
    return None if address is None else address.environment_id


def _execution(
    environment_id: str, number: str, rest: str, query: str
) -> StreamAddress | DisplaysAddress | DisplayAddress | None:
    if not _JOB.fullmatch(number):
        return None
    if rest in set(StreamName):
        part = _range(query, ("offset", "length", "search"))
        return StreamAddress(environment_id, int(number), StreamName(rest), part)
    match = _DISPLAYS.fullmatch(_decoded(rest) or "")
    if match is None:
        return None
    part = _part_of_file(query)
    if match[1] is None:
        return DisplaysAddress(environment_id, int(number), part)
    return DisplayAddress(environment_id, int(number), int(match[1]), match[2] or "", part)


def _file(environment_id: str, rest: str, query: str) -> FileAddress | None:
    path = _decoded(rest)
    if not path:
        return None
    return FileAddress(environment_id, f"/{path.lstrip('/')}", _part_of_file(query))


def _archive(environment_id: str, rest: str, query: str) -> ArchiveAddress | None:
    if not _ARCHIVE.fullmatch(rest):
        return None
    return ArchiveAddress(environment_id, rest, _part_of_file(query))


def _decoded(text: str) -> str | None:
    """Return the percent-decoded text, or None if it is not valid UTF-8 or has a NUL."""
    try:
        plain = unquote(text, errors="strict")
        plain.encode("utf-8")
    except UnicodeError:
        return None
    return None if "\0" in plain else plain


def _part_of_file(query: str) -> Range:
    part = _range(query, ("offset", "length"))
    if part.offset < 0:
        raise InvalidArgument(
            "The offset in a file begins at 0.", hint="Its end is at the `size` in _meta."
        )
    return part


def _range(query: str, known: tuple[str, ...]) -> Range:
    given = _query(query, known)
    length = _number(given, "length", 1)
    search = given.get("search") or None
    if search is not None and len(search) > MAX_PATTERN:
        raise InvalidArgument(
            f"A search has at most {MAX_PATTERN} characters.",
            hint="Search for a part of it that is rare.",
        )
    return Range(_number(given, "offset", None) or 0, length, search)


def _query(query: str, known: tuple[str, ...]) -> Mapping[str, str]:
    given: dict[str, str] = {}
    for item in query.split("&") if query else ():
        name, _, value = item.partition("=")
        decoded = _decoded(value)
        if name not in known or name in given or decoded is None:
            raise InvalidArgument(
                "The query of this URI cannot be read.",
                hint=f"It takes {', '.join(known)}, each once; a '?' in a path is %3F.",
            )
        given[name] = decoded
    return given


def _number(given: Mapping[str, str], name: str, least: int | None) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text) or (least is not None and int(text) < least):
        raise InvalidArgument(f"{name} must be a number of bytes.", hint="As in ?offset=0.")
    return int(text)

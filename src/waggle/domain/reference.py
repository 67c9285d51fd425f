# SPDX-License-Identifier: Apache-2.0
"""References to images: registry, repository, and a tag or a digest. Pure.

The grammar is that of the distribution project's reference package, narrowed where a name would
otherwise have two spellings or none that works: digests are sha256, ports are 1 to 65535, hosts are
lower case, and a tag beside a digest, which adds nothing, is dropped. So an image has one canonical
name, which is its name in the store and the one compared with `WAGGLE_ALLOWED_IMAGES`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from waggle.domain.errors import InvalidArgument
from waggle.domain.machine import MAX_PORT

MAX_NAME = 255
"""Characters of registry and repository together."""
_MAX_TEXT = 512

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_STAR = re.compile(r"(\*\*|\*)")
_FORM = "References look like registry.example/team/app:tag or registry.example/app@sha256:…."


@dataclass(frozen=True, slots=True)
class ImageReference:
    """A checked reference, made by `parse_reference`. Exactly one of `tag` and `digest` is set."""

    registry: str
    """`host`, `host:port` or `[IPv6]:port`, in lower case; empty for a short name."""
    repository: str
    tag: str
    digest: str
    """`sha256:` and 64 hex digits, or empty."""

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}" if self.registry else self.repository

    def __str__(self) -> str:
        """Return the canonical form, which `parse_reference` reads back as an equal value."""
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"


def parse_reference(text: str, default_registry: str = "") -> ImageReference:
    """Read a reference as `docker pull` would. Raises InvalidArgument, whose hint names the fault.

    The part before the first slash is a registry when it is `localhost` or holds a dot or a colon.
    A name without one gets `default_registry` (`host[:port][/path]`; the path is put before names
    of one component only), and has none when that is empty. Without tag and digest the tag is
    `latest`. At most 255 characters of name and 128 of tag.
    """
    if len(text) > _MAX_TEXT:
        raise _refused(text, f"It has {len(text)} characters.")
    named, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise _refused(text, "After '@' come 'sha256:' and 64 lower-case hexadecimal digits.")
    first, slash, rest = named.partition("/")
    registry = ""
    if slash and (first == "localhost" or "." in first or ":" in first):
        registry, named = _registry(first, text), rest
    repository, colon, tag = named.partition(":")
    _check_repository(repository, text)
    if colon and not _TAG.fullmatch(tag):
        raise _refused(text, "A tag has up to 128 letters, digits and _ . - (not first).")
    if not registry and default_registry:
        registry, repository = _expanded(repository, default_registry)
    found = ImageReference(registry, repository, "" if at else tag or "latest", digest)
    if len(found.name) > MAX_NAME:
        raise _refused(text, f"Registry and repository have over {MAX_NAME} characters.")
    return found


def canonical_name(text: str) -> str:
    """Return the canonical form of a reference without default registry; "" if it is malformed."""
    try:
        return str(parse_reference(text))
    except InvalidArgument:
        return ""


def check_default_registry(text: str) -> str:
    """Return `text`, a default registry, in canonical form. Raises InvalidArgument.

    `host[:port][/path]`; here a host needs no dot. Empty means none.
    """
    host, slash, path = text.partition("/")
    if not text:
        return ""
    if slash:
        _check_repository(path, text)
    return _registry(host, text) + slash + path


def _expanded(repository: str, default: str) -> tuple[str, str]:
    host, slash, path = check_default_registry(default).partition("/")
    return host, path + slash + repository if "/" not in repository else repository


def _registry(text: str, whole: str) -> str:
    """Check a registry's host and port; return them in canonical form."""
    host, colon, port = text, "", ""
    if not text.endswith("]") and ":" in text:
        host, colon, port = text.rpartition(":")
    if colon and not (_PORT.fullmatch(port) and int(port) <= MAX_PORT):
        raise _refused(whole, "A registry's port is a number from 1 to 65535.")
    if host.startswith("[") and host.endswith("]") and "%" not in host:
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
        except ValueError:
            raise _refused(whole, "The registry is not an IPv6 address in brackets.") from None
    elif not _HOST.fullmatch(host):
        raise _refused(whole, "The part before the first '/' is not a host name.")
    return host.lower() + colon + port


def _check_repository(repository: str, whole: str) -> None:
    for component in repository.split("/"):
        if not _COMPONENT.fullmatch(component):
            raise _refused(
                whole,
                "Between slashes stand lower-case letters and digits, separated by one '.' or '_',"
                " by '__' or by dashes.",
            )


def _refused(text: str, fault: str) -> InvalidArgument:
    shown = ascii(text if len(text) <= 80 else text[:77] + "...")
    return InvalidArgument(f"{shown} is not an image reference.", hint=f"{fault} {_FORM}")


def matches(pattern: str, reference: ImageReference) -> bool:
    """Whether a pattern of `WAGGLE_ALLOWED_IMAGES` allows a reference. Linear, case-sensitive.

    `*` stands for any text without a slash (so also for a tag or a digest), `**` for any text; the
    pattern must match the whole canonical name. A pattern without `*` is a reference and is made
    canonical first; a malformed one allows nothing.
    """
    if "*" in pattern:
        return _glob(_STAR.split(pattern), str(reference))
    try:
        return parse_reference(pattern) == reference
    except InvalidArgument:
        return False


def named_registry(pattern: str) -> str:
    """Return the registry that a pattern of `WAGGLE_ALLOWED_IMAGES` names, or "" for any."""
    host, slash, _ = pattern.partition("/")
    if not slash or "*" in host:
        return ""
    try:
        return parse_reference(f"{host}/any").registry
    except InvalidArgument:
        return ""


def _glob(pieces: list[str], text: str) -> bool:
    """Follow all ways through the pattern at once, so that no pattern takes exponential time."""
    positions = {0}
    for piece in pieces:
        if piece == "**":
            positions = set(range(min(positions), len(text) + 1))
        elif piece == "*":
            positions = _within_component(positions, text)
        else:
            positions = {at + len(piece) for at in positions if text.startswith(piece, at)}
        if not positions:
            return False
    return len(text) in positions


def _within_component(positions: set[int], text: str) -> set[int]:
    reached: set[int] = set()
    open_ = False
    for at in range(len(text) + 1):
        open_ = at in positions or (open_ and text[at - 1] != "/")
        if open_:
            reached.add(at)
    return reached

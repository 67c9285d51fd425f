# SPDX-License-Identifier: Apache-2.0
"""The error of a call to a VMM's API: which call, which HTTP status, and the VMM's own reason.

Raised by `client`. A guest may have taken its VMM over, so a reason is its claim: it is cleaned of
control characters and cut. Knows no transport.
"""

from __future__ import annotations

import json
from typing import Final, cast

from waggle.domain.errors import WaggleError
from waggle.infra.vmm.version import TITLES, Version, Vmm
from waggle.structure import Bounds, Structure

MAX_REASON: Final = 500
"""Characters of a VMM's reason."""
_MAX_CAUSES: Final = 16
_BOUNDS: Final = Bounds(containers=64, commas=256, depth=8, outside=16 * 1024)


class VmmError(WaggleError):
    """A call to a VMM's API failed.

    `call` is the method's name, `status` the HTTP status or None where there was no valid answer,
    `reason` the VMM's own words, cleaned and cut, or what went wrong.
    """

    code = "vmm_failed"
    default_hint = "Try again; if it repeats, run 'waggle doctor' on the server."

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        call: str = "",
        status: int | None = None,
        reason: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.call = call
        self.status = status
        self.reason = reason


class VmmRefused(VmmError):
    """The VMM works and answered with an error, so it did not do what it was asked for.

    Firecracker answers 400 for that, Cloud Hypervisor mostly 500.
    """


class VmmLost(VmmError):
    """There was no answer in time, or none that is valid: what the VMM did is unknown."""


class VmmLacks(VmmError):
    """The running version has not this method or field. Nothing was sent."""

    code = "unsupported"
    default_hint = "Use another version of the VMM: 'waggle vmm ls' shows what there is."


def refused(vmm: Vmm, call: str, status: int, body: bytes) -> VmmRefused:
    """Return the error for an answer with an HTTP status from 400 on."""
    reason = reason_of(body)
    message = f"{TITLES[vmm]} refused {call} (HTTP {status}): {reason.rstrip('.')}."
    return VmmRefused(message, hint="", call=call, status=status, reason=reason)


def lost(vmm: Vmm, call: str, cause: str, status: int | None = None) -> VmmLost:
    """Return the error for a call without a valid answer."""
    said = "no answer" if status is None else f"HTTP {status}"
    message = f"{TITLES[vmm]} did not carry out {call} ({said}): {cause}."
    return VmmLost(message, call=call, status=status, reason=cause)


def lacks(vmm: Vmm, call: str, running: Version, version: Version, field: str = "") -> VmmLacks:
    """Return the error for a method or field that the running version does not have yet."""
    what = f"the field {field} of {call}" if field else call
    message = f"{TITLES[vmm]} {running} has not {what}: that begins with {version}."
    return VmmLacks(message, call=call, reason=message)


def removed(vmm: Vmm, call: str, running: Version, version: Version) -> VmmLacks:
    """Return the error for a method that the running version has no more."""
    message = f"{TITLES[vmm]} {running} has not {call} any more: that ended with {version}."
    return VmmLacks(message, call=call, reason=message)


def clean(text: str, most: int = MAX_REASON) -> str:
    """Return a VMM's text on one line: no control characters, at most `most` characters."""
    one_line = " ".join(text[: 4 * most].split())
    return "".join(c if c.isprintable() else "?" for c in one_line[:most])


def reason_of(body: bytes) -> str:
    """Return a VMM's reason from the body of its answer, whatever that is.

    Firecracker sends an object with `fault_message`, or `error` with a line break in it where the
    request itself was bad; Cloud Hypervisor a list of causes, the outermost first.
    """
    text = body.decode("utf-8", "replace")
    said = clean(_said(body, text))
    return said or "it gives no reason"


def _said(body: bytes, text: str) -> str:
    try:
        Structure(_BOUNDS).feed(body)
        value: object = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, dict):
        members = cast("dict[str, object]", value)
        fault = members.get("fault_message", members.get("error"))
        return fault if isinstance(fault, str) else text
    if isinstance(value, list):
        causes = cast("list[object]", value)[:_MAX_CAUSES]
        return ": ".join(clean(one).rstrip(".") for one in causes if isinstance(one, str)) or text
    return value if isinstance(value, str) else text

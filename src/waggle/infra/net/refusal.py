# SPDX-License-Identifier: Apache-2.0
"""The proxy's own answers: why a guest's request went nowhere, as a status and a short text.

Raised by `dial`, `forward` and `egress`; written to the guest by `egress` alone. The texts are
read by people and by agents inside the guest, so they name the setting that would change the
outcome, and never an address that a name resolved to.
"""

from __future__ import annotations

from waggle.infra.net.policy import Verdict

DENIED_HEADER = b"X-Waggle-Denied"
ERROR_HEADER = b"X-Waggle-Error"
MAX_SHOWN = 253


class Refusal(Exception):
    """An answer of the proxy itself. `code` goes into a header, `text` into the body."""

    def __init__(
        self, status: int, code: str, text: str, *, verdict: Verdict | None = None
    ) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.text = text
        self.verdict = verdict
        """Set when a rule denied the request."""

    @property
    def header(self) -> tuple[bytes, bytes]:
        """X-Waggle-Denied for what a rule denied, X-Waggle-Error for what failed."""
        name = ERROR_HEADER if self.verdict is None else DENIED_HEADER
        return name, self.code.encode("ascii")


def printable(text: str) -> str:
    """`text` cut to 253 characters, with everything but visible ASCII replaced by `?`."""
    return "".join(c if "!" <= c <= "~" else "?" for c in text[:MAX_SHOWN])


def denied(host: str, verdict: Verdict) -> Refusal:
    """403: a rule of the operator's says no."""
    setting = "WAGGLE_EGRESS_PORTS" if verdict.code == "port" else "WAGGLE_EGRESS_ALLOW_CIDRS"
    text = (
        f"waggle: {printable(host)} is not reachable from this environment: {verdict.reason}. "
        f"Its network policy is 'public' (the public internet only); "
        f"the operator of the server can change that with {setting}."
    )
    return Refusal(403, verdict.code, text, verdict=verdict)


def malformed(problem: str, status: int = 400) -> Refusal:
    """400 and its kin: the request itself is wrong."""
    return Refusal(status, "malformed", f"waggle: bad proxy request: {problem}.")


def unresolvable(host: str) -> Refusal:
    """502: the name has no address."""
    text = f"waggle: {printable(host)} cannot be resolved: check the name."
    return Refusal(502, "unresolvable", text)


def unanswered(host: str) -> Refusal:
    """504: no name server says whether the name has an address."""
    text = f"waggle: {printable(host)}: no name server answers for this name; try again."
    return Refusal(504, "unanswered", text)


def unreachable(host: str, port: int) -> Refusal:
    """502: no address of the host accepted the connection."""
    text = f"waggle: {printable(host)} does not accept connections on port {port}."
    return Refusal(502, "connect-failed", text)


def too_slow(host: str, step: str) -> Refusal:
    """504: `step` took too long."""
    return Refusal(504, "timeout", f"waggle: {printable(host)}: {step} took too long; try again.")


def upstream_broken(host: str) -> Refusal:
    """502: the server's answer is not HTTP, or it hung up before answering."""
    text = f"waggle: {printable(host)} did not give a valid HTTP answer."
    return Refusal(502, "bad-answer", text)


def too_many(limit: int) -> Refusal:
    """503: the environment has all the connections it may have."""
    text = f"waggle: this environment has {limit} connections open, the most it may; close some."
    return Refusal(503, "too-many-connections", text)

# SPDX-License-Identifier: Apache-2.0
"""The settings of the server: where it listens, who may call, what it records, limits of runs.

Joined with the other sections by `waggle.config`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr

from waggle.config.lists import Hosts, OptionalToolsets, Origins, Toolsets
from waggle.config.parsers import (
    Accepts,
    Duration,
    Listen,
    ListenAddress,
    OptionalPath,
    Section,
    Whole,
    lower,
    matching,
    parse_optional_path,
    parsed_by,
    setting,
)
from waggle.domain.programs import MAX_OUTPUT


def parse_url(value: str) -> str:
    """Read a URL without credentials, query and fragment: HTTPS, or HTTP on loopback; or nothing.

    Raises ValueError.
    """
    if not value:
        return value
    parts = urlsplit(value)
    host, _ = parts.hostname or "", parts.port
    loopback = ListenAddress(host, 0).is_loopback
    plain = re.fullmatch(r"[!-~]+", value) and not re.search(r"[@?#\\\"<>|^`{}]", value)
    if not plain or not host or parts.scheme not in ("http", "https"):
        raise ValueError("not a URL")
    if parts.scheme == "http" and not loopback:
        raise ValueError("plain HTTP beyond loopback")
    return value


def parse_log_target(value: str) -> Path | str | None:
    """Read an absolute path, `-` for stderr, or nothing."""
    return value if value == "-" else parse_optional_path(value)


Url = Annotated[
    str,
    AfterValidator(parse_url),
    Accepts("an https URL without query (http on loopback only), or nothing"),
]
Audience = Annotated[
    str,
    matching(re.compile(r"[!#-\[\]-~]{1,1024}"), empty=True),
    Accepts("what the issuer writes into `aud`, best the URL of /mcp, or nothing"),
]
Scope = Annotated[
    str,
    matching(re.compile(r"[!#-\[\]-~]{1,256}"), empty=True),
    Accepts("one scope without spaces, or nothing"),
]
Claim = Annotated[
    str, matching(re.compile(r"[!-~]{1,256}"), empty=True), Accepts("a claim's name, or nothing")
]
LogTarget = Annotated[
    Path | Literal["-"] | None,
    parsed_by(parse_log_target),
    Accepts("an absolute path, - for stderr, or nothing"),
]
ExposeHost = Annotated[
    str,
    matching(
        re.compile(
            r"(?=.{1,200}$)(?![0-9.]+(?::|$))[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
            r"(:[1-9][0-9]{0,4})?"
        ),
        empty=True,
    ),
    lower,  # before it is matched
    Accepts("a host name with an optional port, or nothing"),
]
Token = Annotated[SecretStr, Accepts("a token, or nothing")]


class ServerSection(Section):
    """Server."""

    listen_addr: Listen = setting("127.0.0.1:8080", "Where the HTTP server listens.")
    allow_remote: bool = setting(
        "false",
        "Allow a listen address that other machines can reach, without authentication; put a proxy "
        "that checks who calls in front. Not needed with authentication.",
    )
    allowed_hosts: Hosts = setting(
        "", "Host headers that are answered, beside loopback names and the listen address."
    )
    allowed_origins: Origins = setting(
        "",
        "Origins of web pages that may call. Browsers let no page on loopback read an answer, "
        "where guests have pages, too, unless its origin is named here.",
    )
    expose_host: ExposeHost = setting(
        "",
        "Host below which exposed ports have names of their own, `PORT-ID.HOST`, so that their "
        "pages may use cookies and scripts as anywhere; `localhost` serves browsers on this "
        "machine. All names below it must lead to this server, and none to anything else. Nothing "
        "means that ports are at paths, `/e/ID/PORT/`, where pages are in a sandbox.",
    )
    toolsets: Toolsets = setting(
        "core",
        "Which tools clients are shown that do not choose: the ten of `core`, all with `full`, or "
        "the named sets. Anything but `core` is also all that they can have, unless "
        "WAGGLE_TOOLSETS_ALLOWED says otherwise.",
    )
    toolsets_allowed: OptionalToolsets = setting(
        "",
        "Which tools and resources clients can have at all, those included that they choose with "
        "`/mcp?toolsets=`. Nothing: all, if WAGGLE_TOOLSETS is `core`, else what that names.",
    )
    parameter_headers: bool = setting(
        "false",
        "Have clients of MCP 2026-07-28 repeat `environment_id` in the header "
        "`Mcp-Param-Environment-Id`, for proxies that route by it. The APIs of some models refuse "
        "the keyword for it in tools' schemas.",
    )
    max_sessions: Whole = setting(
        "1000",
        "MCP sessions kept at once; where tokens of several owners are accepted, one of them may "
        "have half.",
        ge=1,
        le=100_000,
    )
    session_idle_timeout: Duration = setting("30m", "An MCP session unused so long is forgotten.")
    shutdown_timeout: Duration = setting(
        "30s",
        "How long a stopping server waits for running calls; machines have ten seconds or more.",
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], lower] = setting(
        "info", "The least severe level that is logged."
    )
    log_format: Annotated[Literal["auto", "console", "json"], lower] = setting(
        "auto", "How log lines look; `auto` is `console` on a terminal, else `json`."
    )


class AccessSection(Section):
    """Who may call."""

    auth_tokens_file: OptionalPath = setting(
        "",
        "File of bearer tokens (their hashes); `waggle token` makes and changes it, and a running "
        "server takes changes by itself. Nothing, and no OAuth issuer, means that everybody who "
        "can connect may do everything.",
    )
    oauth_issuer: Url = setting(
        "", "The OAuth issuer whose access tokens are accepted: its `iss`, exactly as it writes it."
    )
    oauth_audience: Audience = setting("", "What tokens must name as their audience.")
    oauth_jwks_url: Url = setting(
        "", "Where the issuer's public keys are; nothing means where its metadata says."
    )
    oauth_scope: Scope = setting("", "A scope that tokens must have; nothing means none.")
    oauth_owner_claim: Claim = setting(
        "",
        "The claim that says whose environments a token opens; nothing means `iss` and `sub` "
        "together. Users must not be able to choose its value. Equal names in the tokens file "
        "are the same owner.",
    )
    public_url: Url = setting(
        "",
        "The URL of /mcp as clients see it, for OAuth clients and in links to exposed ports; "
        "nothing means the audience, which must then be that URL.",
    )
    max_environments_per_owner: Whole = setting(
        "0",
        "Environments that one owner may have in memory at once. 0 means all, or, where tokens of "
        "several owners are accepted, half of `WAGGLE_MAX_ENVIRONMENTS`.",
        ge=0,
        le=1000,
    )
    max_disk_mb_per_owner: Whole = setting(
        "0",
        "MiB on the disk that one owner's environments, snapshots and their output may take; "
        "creates, copies and pauses to disk that need more are refused. 0 means all, or, where "
        "tokens of several owners are accepted, half of the room for all.",
        ge=0,
        le=1_000_000_000,
    )
    max_calls_per_minute: Whole = setting(
        "0",
        "Tool calls and requests for resources and prompts of one owner in a minute; as many may "
        "come at once. 0 means no bound.",
        ge=0,
        le=1_000_000,
    )
    token: Token = setting(
        "", "The bearer token of `waggle exec` and other commands that are clients of the server."
    )

    @property
    def authenticates(self) -> bool:
        """Whether clients have to authenticate."""
        return self.auth_tokens_file is not None or bool(self.oauth_issuer)

    @property
    def resource_url(self) -> str:
        """The URL of /mcp as OAuth clients see it."""
        return self.public_url or self.oauth_audience


class ObservationSection(Section):
    """What is kept of calls."""

    metrics: bool = setting(
        "true",
        "Serve /metrics for Prometheus. With authentication it needs a token of the owner "
        "`metrics` from the tokens file.",
    )
    audit_log: LogTarget = setting(
        "",
        "Where one JSON line goes per tool call and request for resources or prompts: who, which "
        "tool, outcome, duration; and per connection of a guest.",
    )
    audit_code: bool = setting("false", "Write code and commands of clients into the audit log.")
    audit_network: bool = setting(
        "true",
        "Write guests' connections into the audit log, allowed and refused ones: host, port, "
        "address, rule, bytes, duration. More than a few a second are summed up.",
    )


def observation_conflicts(settings: ObservationSection) -> Iterator[str]:
    """Yield a line for each pair of these settings that cannot be used together."""
    if settings.audit_code and settings.audit_log is None:
        yield "WAGGLE_AUDIT_CODE has no effect without WAGGLE_AUDIT_LOG."


def access_conflicts(settings: AccessSection) -> Iterator[str]:
    """Yield a line for each pair of these settings that cannot be used together."""
    if settings.oauth_issuer and not settings.oauth_audience:
        yield "WAGGLE_OAUTH_ISSUER needs WAGGLE_OAUTH_AUDIENCE: tokens for others must not pass."
    if settings.oauth_issuer and not settings.resource_url.startswith(("https://", "http://")):
        yield "WAGGLE_OAUTH_AUDIENCE is no URL, so WAGGLE_PUBLIC_URL must say the URL of /mcp."
    if not settings.oauth_issuer:
        for name in ("audience", "jwks_url", "scope", "owner_claim"):
            if getattr(settings, f"oauth_{name}"):
                yield f"WAGGLE_OAUTH_{name.upper()} has no effect without WAGGLE_OAUTH_ISSUER."


class ExecutionSection(Section):
    """Running code."""

    default_exec_timeout: Duration = setting(
        "30s",
        "How long `execute` and `run_command` wait for a program unless the caller says; then it "
        "continues as a job.",
    )
    max_exec_timeout: Duration = setting(
        "1h", "A program is killed after so long, or earlier if the caller says."
    )
    install_timeout: Duration = setting("5m", "Time limit of `install_packages`.")
    output_limit: Whole = setting(
        "24000",
        "Characters of standard output and standard error together in one result, unless a call "
        "gives `max_output`; longer output is cut in the middle, and `read_job` has the rest.",
        ge=1000,
        le=MAX_OUTPUT,
    )
    output_keep_mb: Whole = setting(
        "8",
        "MiB kept of each output stream of a program, for `read_job`; of a longer one the "
        "beginning and the end.",
        ge=1,
        le=1024,
    )

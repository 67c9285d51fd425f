# SPDX-License-Identifier: Apache-2.0
"""The rows of the benchmarks: measured value, comparison and limit. Pure data.

The measuring code looks its rows up here; a test compares docs/benchmarks.md with it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `limit` is the highest allowed value; None is only for information."""

    key: str
    group: str
    what: str
    against: str
    unit: str
    limit: float | None


RATIO, MEGABYTES, COUNT, TOKENS, MILLISECONDS = "x", "MB", "left", "tokens", "ms"
WHOLE = (COUNT, TOKENS)
"""Units that have no fractions."""

ROWS: tuple[Row, ...] = (
    Row(
        "cold",
        "cold",
        "`create_environment`, then the result of a first `execute` of `true`",
        "a bare QEMU with the same kernel, disks and memory until asyncssh has run `true`",
        RATIO,
        1.15,
    ),
    Row(
        "template",
        "template",
        "`cold` from a template",
        "the same with `WAGGLE_TEMPLATES=off`, which boots",
        RATIO,
        0.10,
    ),
    Row(
        "template-python",
        "template",
        "the same with a first `execute` of `print(1)` in Python",
        "the same from a boot",
        RATIO,
        None,
    ),
    Row(
        "pause",
        "copies",
        "resume from the disk, then `true`",
        "a create from a template, then `true`",
        RATIO,
        1.5,
    ),
    Row(
        "density",
        "copies",
        "private memory of each of 20 copies of 512 MB alive at once, without the VMM's own",
        "",
        MEGABYTES,
        60,
    ),
    Row(
        "fork",
        "copies",
        "a fork of an environment with a Python heap of 300 MB, then `true`",
        "a new environment, from a template, that fills such a heap again",
        RATIO,
        0.15,
    ),
    Row(
        "output-tail",
        "living",
        "`read_job` of the last 16 kB of a job that printed 10 MB",
        "asyncssh on an open connection until `true` has run, a round trip",
        RATIO,
        2,
    ),
    Row(
        "output-memory",
        "living",
        "resident memory of the server after more jobs that printed 10 MB each",
        "the server before",
        MEGABYTES,
        4,
    ),
    Row(
        "fork-living",
        "living",
        "a fork of an environment with a context that holds 300 MB and a job that runs, until both "
        "have answered in it",
        "the fork of the row `fork`",
        RATIO,
        1.3,
    ),
    Row(
        "execute",
        "execute",
        "`execute` of `print(1)` in Python",
        "asyncssh on an open connection, the same program sent the same way",
        RATIO,
        1.3,
    ),
    Row(
        "execute-argument",
        "execute",
        "the same `execute`",
        "asyncssh on an open connection, `python3 -c 'print(1)'`, which needs no file",
        RATIO,
        None,
    ),
    Row(
        "cell",
        "contexts",
        "`execute` of `x += 1; print(x)` in a live Python context",
        "`execute` of `print(1)`, a new process",
        RATIO,
        0.25,
    ),
    Row(
        "cell-ssh",
        "contexts",
        "the same",
        "asyncssh on an open connection until `true` has run, a round trip",
        RATIO,
        1.2,
    ),
    Row(
        "first-cell",
        "contexts",
        "the first call in an environment from a template: `print(1)` in a new context",
        "the same as a new process",
        RATIO,
        1.3,
    ),
    Row(
        "new-cell",
        "contexts",
        "`print(1)` in a new context of an environment that has run programs",
        "the same as a new process",
        RATIO,
        None,
    ),
    Row(
        "claim",
        "claim",
        "`create_environment` served from the warm pool, then a first `execute` of `print(1)`",
        "the same `execute` in an environment that runs",
        RATIO,
        1.5,
    ),
    Row(
        "write-text",
        "files",
        "`write_file` of 8 MiB of text",
        "asyncssh SFTP `put` into the same guest",
        RATIO,
        1.5,
    ),
    Row(
        "write-base64",
        "files",
        "`write_file` of 8 MiB of random bytes, as base64",
        "asyncssh SFTP `put` into the same guest",
        RATIO,
        1.5,
    ),
    Row(
        "read-text",
        "files",
        "`read_file` of 8 MiB of text, all pages",
        "asyncssh SFTP `get` from the same guest",
        RATIO,
        1.5,
    ),
    Row(
        "read-base64",
        "files",
        "`read_file` of 8 MiB of random bytes, all pages",
        "asyncssh SFTP `get` from the same guest",
        RATIO,
        1.5,
    ),
    Row("idle", "memory", "resident memory of an idle server", "", MEGABYTES, 120),
    Row(
        "environment",
        "memory",
        "growth of the server's resident memory for each running environment",
        "",
        MEGABYTES,
        2,
    ),
    Row(
        "cycles",
        "cycles",
        "processes, descriptors, sockets, ports and files that create and destroy leave behind",
        "the server before",
        COUNT,
        0,
    ),
    Row(
        "list",
        "list",
        "`list_environments` with 1,000 stored records",
        "with 10",
        RATIO,
        3,
    ),
    Row(
        "call-1",
        "calls",
        "p50 of `list_environments`, 10 environments, with tokens, metrics and audit log, 1 client",
        "a no-op tool in the least server of the SDK",
        RATIO,
        1.3,
    ),
    Row("call-32", "calls", "the same, 32 clients at once", "the same", RATIO, 1.3),
    Row("session-1", "calls", "`call-1` in a session of 2025-11-25", "the same", RATIO, 1.3),
    Row("session-32", "calls", "`call-32` in sessions of 2025-11-25", "the same", RATIO, 1.3),
    Row(
        "wire-1",
        "calls",
        "`call-1` with bytes made before instead of a client",
        "the same",
        RATIO,
        None,
    ),
    Row("wire-32", "calls", "`call-32` with bytes made before", "the same", RATIO, None),
    Row("same-1", "calls", "`call-1`", "the same, its HTTP parsed by httptools too", RATIO, None),
    Row("same-32", "calls", "`call-32`", "the same, its HTTP parsed by httptools too", RATIO, None),
    Row(
        "load-errors",
        "load",
        "errors of `execute` from 32 clients at once in 4 environments, for 60 s",
        "",
        COUNT,
        0,
    ),
    Row("load-p99", "load", "p99 of these calls", "their p50", RATIO, 4),
    Row(
        "load-memory",
        "load",
        "resident memory of the server in the last third of that time",
        "in the middle third",
        MEGABYTES,
        8,
    ),
    Row(
        "sessions",
        "sessions",
        "resident memory after 10,000 sessions of 2025-11-25, all abandoned and forgotten",
        "the server before, after 500 such sessions",
        RATIO,
        1.1,
    ),
    Row(
        "pull-cold",
        "images",
        "an image of 150 MB in 6 layers, from a registry on loopback to a bootable disk",
        "`skopeo copy`, `umoci unpack` and `mkfs.erofs` of the same image",
        RATIO,
        0.8,
    ),
    Row(
        "pull-shared",
        "images",
        "a second image that shares 5 of its 6 layers with a first one that is here",
        "the first one",
        RATIO,
        0.35,
    ),
    Row(
        "pull-memory",
        "images",
        "growth of a process that pulls an image of 1 GB and makes its disk, at its peak",
        "",
        MEGABYTES,
        150,
    ),
    Row(
        "create-cached",
        "images",
        "`create_environment(image=...)` of an image that is here, then a first `execute`",
        "the same with the runtime's own image",
        RATIO,
        1.05,
    ),
    Row(
        "rules",
        "rules",
        "one decision about a name and its address, with 1,000 rules of its own and as many "
        "of the operator's maximum",
        "the same with one rule of each",
        MILLISECONDS,
        0.1,
    ),
    Row(
        "direct-page",
        "direct",
        "GET of a small page by a program in a guest without proxy variables",
        "the same through the proxy variables",
        RATIO,
        1.4,
    ),
    Row(
        "direct-large",
        "direct",
        "16 MB over TLS by a program in a guest without proxy variables",
        "the same through the proxy variables",
        RATIO,
        1.33,
    ),
    Row(
        "ended-large",
        "direct",
        "16 MB by a program in a guest over TLS that the proxy ends for a secret",
        "the same through a tunnel of the proxy",
        RATIO,
        1.67,
    ),
    Row(
        "direct-denied",
        "direct",
        "connecting to a name that is denied until the program hears of it",
        "",
        MILLISECONDS,
        100,
    ),
    Row(
        "agent-first",
        "agent",
        "from the line by which a guest is ready until its agent has answered",
        "",
        MILLISECONDS,
        1000,
    ),
    Row(
        "agent-read",
        "agent",
        "10 MB of a file by the guest agent, over its port",
        "the same by SFTP, over SSH",
        RATIO,
        2.0,
    ),
    Row(
        "tokens-core",
        "tokens",
        "the tools of the default surface in a prompt: name, description, input schema; o200k",
        "",
        TOKENS,
        1_650,
    ),
    Row("tokens-core-output", "tokens", "the same with output schemas", "", TOKENS, 3_000),
    Row("tokens-full", "tokens", "all tools in a prompt", "", TOKENS, 5_000),
    Row("tokens-full-output", "tokens", "the same with output schemas", "", TOKENS, 9_000),
    Row(
        "tokens-print",
        "tokens",
        "the result of `execute` of `print(6*7)`, as structured content",
        "",
        TOKENS,
        40,
    ),
    Row(
        "tokens-session",
        "tokens",
        "the results of a session: create, install, programs, files, edits, lists, a job, destroy",
        "",
        TOKENS,
        1_000,
    ),
    Row(
        "first-python",
        "runtimes",
        "`create_environment` of python from a template, then a first `execute` of `print(1)`",
        "the same with the python image from before the images had a common base",
        RATIO,
        1.1,
    ),
    Row("first-data", "runtimes", "the same with data", "the same", RATIO, 1.1),
    Row(
        "image-disks",
        "runtimes",
        "disks of python, node and shell, what they have in common counted once",
        "the sum of these three before",
        RATIO,
        2.2,
    ),
    Row(
        "krun-first-result",
        "krun",
        "`create_environment` with krun, then the result of a first `execute` of `true`",
        "`msb run` (microsandbox, which embeds libkrun) of the same root tree with `true`",
        RATIO,
        0.8,
    ),
    Row(
        "krun-banner",
        "krun",
        "a machine of krun from its start to the SSH banner at the forwarded port",
        "a minimal program that only calls libkrun, with the same kernel and disks",
        RATIO,
        1.2,
    ),
    Row(
        "krun-memory",
        "krun",
        "private memory of its runner then, without the guest's own",
        "the minimal program's",
        RATIO,
        1.15,
    ),
    Row(
        "firecracker-template",
        "firecracker",
        "a create with Firecracker from a template, then `true`",
        "the same with QEMU",
        RATIO,
        0.7,
    ),
    Row(
        "firecracker-cold",
        "firecracker",
        "a create with Firecracker from a boot, then `true`",
        "the same with libkrun",
        RATIO,
        0.9,
    ),
    Row(
        "firecracker-restore",
        "firecracker",
        "a frozen machine of Firecracker until its agent has answered",
        "a boot of it",
        RATIO,
        0.35,
    ),
    Row(
        "firecracker-memory",
        "firecracker",
        "private memory of an idle copy of 256 MB with its VMM, several alive",
        "the same with QEMU",
        RATIO,
        0.6,
    ),
    Row(
        "firecracker-lost",
        "firecracker",
        "copies that do not live when 20 were made and used",
        "",
        COUNT,
        0,
    ),
    Row(
        "firecracker-pause",
        "firecracker",
        "a pause to disk and a resume with Firecracker, then `true`",
        "a create from a template, then `true`",
        RATIO,
        1.3,
    ),
    Row("firecracker-resume", "firecracker", "the resume alone", "the same", RATIO, None),
)

GROUPS: tuple[str, ...] = tuple(dict.fromkeys(row.group for row in ROWS))
"""The groups, which can be measured alone, in the order of the table."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of the row `key`: one figure, the two sides, and a short description of how."""

    key: str
    value: float
    ours: str
    theirs: str
    how: str


def rows(group: str) -> tuple[Row, ...]:
    """Return the rows of one group."""
    return tuple(row for row in ROWS if row.group == group)


def figure(row: Row, value: float) -> str:
    """Format a value of this row."""
    return f"{value:.0f} {row.unit}" if row.unit in WHOLE else f"{value:.2f} {row.unit}"


def is_kept(row: Row, value: float) -> bool:
    """Whether the value, as it is shown, is within the limit."""
    return row.limit is None or round(value, 2) <= row.limit

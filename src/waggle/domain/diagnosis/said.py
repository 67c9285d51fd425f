# SPDX-License-Identifier: Apache-2.0
"""Rules about the messages of well-known programs that fail, reported as said. Pure.

They apply to failed runs only, after all facts that the machine itself knows. A program that prints
such messages without cause misleads only its owner.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from waggle.domain.diagnosis import Diagnosis, Evidence, reach, shown
from waggle.domain.diagnosis.lacking import as_root, has, last_words, python_package
from waggle.domain.diagnosis.packages import distribution_of
from waggle.domain.diagnosis.programs import more_disk, more_memory
from waggle.domain.programs import GuestUser

_Rule = Diagnosis | Callable[[Evidence, "re.Match[str]"], Diagnosis | None]

_MAX_HOLDERS: Final = 3
_DENIED: Final = (
    r"PermissionError: \[Errno 13\] Permission denied"
    r"|\bEACCES\b.{0,20}permission denied|code EACCES"
    r"|cannot (?:create|open|touch|remove|move|make|access)\b.{0,200}Permission denied"
    r"|Could not open lock file .{0,200}Permission denied"
    r"|are you root\?|must be (?:run as )?root|(?:requires|need to be) root"
    r"|changing ownership of .{0,200}Operation not permitted"
    r"|: line \d+: /\S+: Permission denied"
)


def permission_denied(evidence: Evidence, match: re.Match[str]) -> Diagnosis | None:
    """Diagnose the use of something that belongs to root."""
    if evidence.user is GuestUser.ROOT:
        return None
    how = 'with sudo, or with user "root"' if has(evidence, "sudo") else 'user "root"'
    step = f"If that belongs to root, run the command as root: {how}."
    if "EACCES" in match[0]:
        step += " With npm, leave -g out, or run npm install -g as root."
    return Diagnosis("permission_denied", "It was denied something that its user may not do.", step)


def address_in_use(evidence: Evidence, match: re.Match[str]) -> Diagnosis:
    """Diagnose a port on which another program listens; name that where the guest reported it."""
    port = next(filter(None, match.groups()), "")
    where = f"port {port}" if port else "the port that it wants"
    holders = [holder for holder in evidence.listeners if port in ("", str(holder.port))]
    if holders:
        listed = "; ".join(
            f"pid {holder.pid} on port {holder.port}, {shown(holder.command)}"
            for holder in holders[:_MAX_HOLDERS]
        )
        pid = str(holders[0].pid) if len(holders) == 1 else "PID"
        return Diagnosis(
            "address_in_use",
            f"Another program listens on {where} already: {listed}.",
            f"Use another port, or end that program: {as_root(evidence, f'kill {pid}')}.",
        )
    look = f"{as_root(evidence, 'ss -ltnp')} shows which; " if has(evidence, "ss") else ""
    return Diagnosis(
        "address_in_use",
        f"Another program listens on {where} already.",
        f"Use another port, or end that program: {look}read_job shows jobs and ends one.",
    )


_EXTERNALLY_MANAGED: Final = Diagnosis(
    "externally_managed",
    "The installer leaves the system's Python alone.",
    "Give it --break-system-packages (this machine is throw-away), or make a virtual "
    "environment: python3 -m venv .venv && .venv/bin/pip install NAME.",
)


def certificate_unknown(_evidence: Evidence, match: re.Match[str]) -> Diagnosis:
    """Diagnose a certificate signed by an authority that the program does not know."""
    step = (
        "Have the program use the machine's trust store, /etc/ssl/certs/ca-certificates.crt "
        "(SSL_CERT_FILE, REQUESTS_CA_BUNDLE, NODE_EXTRA_CA_CERTS)."
    )
    if "PKIX" in match[0]:
        step = (
            "Java has a trust store of its own. The operator's authorities are in "
            "/etc/ssl/certs/waggle-ca.pem: for each of them, as root, keytool -importcert -cacerts "
            "-storepass changeit -noprompt -alias NAME -file ONE.pem."
        )
    return Diagnosis("certificate_unknown", "It does not trust the server's certificate.", step)


def disk_was_full(evidence: Evidence, _match: re.Match[str]) -> Diagnosis:
    """Diagnose a disk that was full and has room again."""
    cause = "It said that there was no space left on the device."
    return Diagnosis("disk_full", cause, more_disk(evidence))


_HEAP_FULL: Final = Diagnosis(
    "out_of_memory",
    "Node.js reached the limit of its own heap.",
    "Raise it within the machine's memory: NODE_OPTIONS=--max-old-space-size=MIB.",
)


def memory_refused(evidence: Evidence, _match: re.Match[str]) -> Diagnosis:
    """Diagnose a request for more memory than there is."""
    return Diagnosis(
        "out_of_memory",
        f"It said that it got no more memory; the machine has {evidence.memory_mib} MiB.",
        f"Use less: read data in pieces, use smaller types. {more_memory(evidence)}",
    )


def distribution_unknown(evidence: Evidence, match: re.Match[str]) -> Diagnosis:
    """Diagnose a name that PyPI does not have; it may be a module's name."""
    name = distribution_of(match[1])
    if name is None:
        return package_unknown(evidence, match)
    return Diagnosis(
        "package_not_found",
        f"{shown(match[1])} is the name of a module; its package is {name}.",
        python_package(evidence, name),
    )


def package_unknown(evidence: Evidence, match: re.Match[str]) -> Diagnosis:
    """Diagnose a package name that the installer does not know."""
    step = "Check the name and version; it may have another name in this index."
    if match[0].startswith("E:"):
        step = f"Fetch the lists and try again: {as_root(evidence, 'apt-get update')}. {step}"
    return Diagnosis("package_not_found", "The installer knows no such package.", step)


_NO_SYSTEMD: Final = Diagnosis(
    "no_systemd",
    "There is no systemd in this machine.",
    "Start the server's program itself, as a job in the background.",
)
_NO_INPUT: Final = Diagnosis(
    "no_input",
    "It wanted to read a line, and there is no terminal and no more input.",
    "Give what it reads in stdin, or give it as arguments.",
)


def no_display(evidence: Evidence, _match: re.Match[str]) -> Diagnosis:
    """Diagnose the lack of a display."""
    install = "" if has(evidence, "xvfb-run") else "install xvfb and "
    return Diagnosis(
        "no_display",
        "It wanted a screen, and there is none.",
        f"Use its headless mode (matplotlib: savefig, not show), or {install}run it with xvfb-run.",
    )


_WRONG_FORMAT: Final = Diagnosis(
    "not_executable",
    "A file is no program for this machine.",
    "Use a build for Linux on x86-64; give a script to its interpreter (bash FILE).",
)
_NO_INTERPRETER: Final = Diagnosis(
    "interpreter_not_found",
    "A script's first line names an interpreter that is not there, often because of a carriage "
    "return at its end.",
    "Give the script Unix line ends (sed -i 's/\\r$//' FILE), or correct its first line.",
)


def browser_libraries(evidence: Evidence, _match: re.Match[str]) -> Diagnosis:
    """Diagnose shared libraries that Playwright reports as missing."""
    program = "npx playwright" if has(evidence, "npm") else "python3 -m playwright"
    return Diagnosis(
        "library_not_found",
        "The browser's shared libraries are not in this image.",
        f"Install them: {as_root(evidence, f'{program} install-deps')}.",
    )


_SAID: Final[tuple[tuple[re.Pattern[str], _Rule], ...]] = tuple(
    (re.compile(pattern, re.MULTILINE), rule)
    for pattern, rule in (
        (r"missing dependencies to run browsers", browser_libraries),
        (reach.NO_IPTABLES, reach.no_iptables),
        (reach.NO_SERVER, reach.no_server),
        (reach.NOT_ROOT, reach.not_root),
        (r"Exec format error|cannot execute binary file", _WRONG_FORMAT),
        (
            r"bad interpreter: No such file|cannot execute: required file not found"
            r"|env: \S+\\r\S?: No such file",
            _NO_INTERPRETER,
        ),
        (r"externally[- ]managed", _EXTERNALLY_MANAGED),
        (
            r"^(?:E: Unable to locate package|E: Package '\S+' has no installation cand)",
            package_unknown,
        ),
        (r"No matching distribution found for ([\w.-]+)", distribution_unknown),
        (r"No matching distribution found|npm error 404", package_unknown),
        (
            r"EADDRINUSE[^\n]*?(?::(\d{1,5})\b)?$"
            r"|\('[^'\n]*', (\d{1,5})\): \[?[Aa]ddress already in use"
            r"|[Aa]ddress already in use",
            address_in_use,
        ),
        (r"JavaScript heap out of memory", _HEAP_FULL),
        (
            r"^(?:\S*MemoryError\b|std::bad_alloc)|terminate called .{0,80}bad_alloc"
            r"|java\.lang\.OutOfMemoryError|Cannot allocate memory",
            memory_refused,
        ),
        (r"No space left on device|\bENOSPC\b", disk_was_full),
        (
            r"CERTIFICATE_VERIFY_FAILED|self[- ]signed certificate|unable to get local issuer"
            r"|PKIX path building failed",
            certificate_unknown,
        ),
        (reach.NO_NAME, reach.name_unknown),
        (r"not been booted with systemd|Failed to connect to bus", _NO_SYSTEMD),
        (r"^EOFError: EOF when reading a line$", _NO_INPUT),
        (
            r"no display name and no \$DISPLAY|cannot open display|couldn't connect to display",
            no_display,
        ),
        (_DENIED, permission_denied),
    )
)


def known_message(evidence: Evidence) -> Diagnosis | None:
    """Return the diagnosis of the first rule that matches the end of the output."""
    text = last_words(evidence)
    for pattern, rule in _SAID:
        if not (match := pattern.search(text)):
            continue
        if found := rule if isinstance(rule, Diagnosis) else rule(evidence, match):
            return found
    return None

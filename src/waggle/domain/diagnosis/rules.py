# SPDX-License-Identifier: Apache-2.0
"""Find out why a run failed and what to do next, from evidence. Pure.

Called by `waggle.service.local.diagnostician`. RULES is the table; the first rule that yields a
diagnosis wins. Facts of the machine come first, messages of well-known programs (`said`) after
them. The rules about mistakes in the code are here: only those whose remedy lies outside of the
code (another language, another machine, an earlier call); for others the message is enough.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from waggle.domain.diagnosis import (
    Diagnosis,
    Evidence,
    credentials,
    lacking,
    programs,
    reach,
    said,
    shown,
)
from waggle.domain.diagnosis.lacking import last_words

_PYTHON_IN_SHELL: Final = re.compile(
    r"main\.sh: line \d+: (?:import|from|def|class|print|elif|async): command not found"
    r"|main\.sh: line \d+: syntax error near unexpected token [^\n]*\n"
    r"\S*main\.sh: line \d+: `\s*(?:print\(|def \w+\(|class \w+[(:]|with open\(|[\w.]+ = \w+[.(])"
)
_OTHERS_DIRECTORY: Final = (
    r"(?:[A-Za-z]:[\\/]|/Users/|/mnt/(?:data|[a-z]/|user-data)|/content/|/kaggle/|/workspaces?/"
    r"|/home/(?!sandbox/)[\w.-]+/)"
)
_ANOTHER_MACHINE: Final = re.compile(
    rf"No such file or directory:? ['\"]({_OTHERS_DIRECTORY}[^'\"\n]*)"
    rf"|ENOENT: no such file or directory, \w+ ['\"]({_OTHERS_DIRECTORY}[^'\"\n]*)"
    r"|(?m:^)\S+: (?:line \d+: )?(?:cd: )?['\"]?"
    rf"({_OTHERS_DIRECTORY}[^'\":\n]*)['\"]?: No such file"
)
_RELATIVE: Final = re.compile(
    r"FileNotFoundError: \[Errno 2\] No such file or directory: ['\"]((?!/)[^'\"\n]+)['\"]$"
    r"|ENOENT: no such file or directory, \w+ ['\"]((?!/)[^'\"\n]+)"
    r"|can't open file '([^'\n]+)': \[Errno 2\]"
    r"|main\.sh: line \d+: cd: ((?!/)[^:\n]+): No such file",
    re.MULTILINE,
)
_UNDEFINED: Final = re.compile(
    r"^NameError: name '(\w+)' is not defined$|^ReferenceError: ([\w$]+) is not defined$",
    re.MULTILINE,
)
_JSON_WORDS: Final = frozenset({"true", "false", "null", "undefined"})
_BROWSER: Final = frozenset({"window", "document", "alert", "prompt", "localStorage", "confirm"})


def code_of_python(evidence: Evidence) -> Diagnosis | None:
    """Diagnose Python code that was given to a shell."""
    if not _PYTHON_IN_SHELL.search(last_words(evidence)):
        return None
    return Diagnosis(
        "another_language",
        "The shell was given what looks like Python.",
        'Call execute with language "python".',
    )


def in_the_code(evidence: Evidence) -> Diagnosis | None:
    """Diagnose a mistake in the code of which more is known than its interpreter reports."""
    text = last_words(evidence)
    if match := _ANOTHER_MACHINE.search(text):
        return _another_machine(next(filter(None, match.groups())))
    if match := _RELATIVE.search(text):
        return _not_there(next(filter(None, match.groups())))
    if match := _UNDEFINED.search(text):
        return _undefined(match[1] or match[2], python=bool(match[1]))
    return next((diagnosis for pattern, diagnosis in _SAID if pattern.search(text)), None)


def _another_machine(path: str) -> Diagnosis:
    return Diagnosis(
        "file_not_found",
        f"It did not find {shown(path)}: this is another machine than the user's, with files of "
        "its own.",
        "Write what it needs with write_file, to a relative path or below /home/sandbox.",
    )


def _not_there(path: str) -> Diagnosis:
    return Diagnosis(
        "file_not_found",
        f"It did not find {shown(path)}.",
        "A relative path counts from cwd, by default the environment's directory: a cd of an "
        "earlier call does not last. list_files shows what is there.",
    )


def _undefined(name: str, *, python: bool) -> Diagnosis:
    if python and name in _JSON_WORDS:
        return Diagnosis(
            "not_defined",
            f"Python has no {name}.",
            "Write True, False and None, or read JSON with json.loads.",
        )
    if not python and name in _BROWSER:
        return Diagnosis(
            "not_defined",
            f"There is no {name}: this is Node.js and no browser.",
            "Read input from process.stdin (give it in stdin), print with console.log; for a DOM "
            "use jsdom.",
        )
    return Diagnosis(
        "not_defined",
        f"It said that {shown(name)} is not defined.",
        "If an earlier call did: variables stay only in a context. Give execute the same context, "
        "such as main, in both calls; or define it here again.",
    )


_SAID: Final = tuple(
    (re.compile(pattern, re.MULTILINE), Diagnosis(code, cause, step))
    for pattern, code, cause, step in (
        (
            r"SyntaxError: invalid (?:non-printable )?character",
            "typographic_character",
            "The code has a character of typography where Python wants a plain one.",
            "Write plain quotes, hyphens and spaces (' \" - and no U+00A0) instead.",
        ),
        (
            r"SyntaxError: unexpected character after line continuation character",
            "escaped_line_ends",
            "The code has a backslash outside of a text, such as \\n where a line ends.",
            "Send real line ends.",
        ),
        (
            r"SyntaxError: \(unicode error\) 'unicodeescape' codec",
            "escape_in_path",
            "A text has \\U or \\x in it, as paths of Windows do.",
            "This is Linux: write a path of it, with /; for other texts use r'...'.",
        ),
        (
            r"SyntaxError: 'await' outside (?:async )?function",
            "await_outside_function",
            "Python has no await outside of a function.",
            "Put it into async def main(), and end the code with asyncio.run(main()).",
        ),
        (
            r"ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX|bad option: --experimental-transform-types",
            "typescript_unsupported",
            "This Node.js only leaves types out; it does not run enums, namespaces and the like.",
            'Write it without, or run the file with a compiler: npx -y tsx FILE, language "shell".',
        ),
        (
            r"ReferenceError: require is not defined in ES module",
            "module_kinds_mixed",
            "Code with import or await at its top has no require.",
            "Use import for all modules: import x from 'x'.",
        ),
        (
            r"bin/activate: No such file or directory",
            "no_virtual_environment",
            "It did not find the virtual environment.",
            "Leave it out: what install_packages installs is there for all programs. Or make it "
            "first: python3 -m venv DIRECTORY.",
        ),
        (
            r"main\.sh: line \d+: unexpected EOF while looking for matching",
            "unclosed_quote",
            "A quote or a bracket in the shell lines is not closed.",
            "Close it; write longer texts with write_file, or as <<'EOF' in lines of their own.",
        ),
    )
)


RULES: Final[tuple[Callable[[Evidence], Diagnosis | None], ...]] = (
    programs.out_of_memory,
    code_of_python,
    lacking.command_not_found,
    programs.cannot_execute,
    programs.line_ends,
    programs.cannot_enter,
    programs.killed,
    programs.too_many_processes,
    programs.disk_full,
    programs.memory_files_full,
    reach.missing_module,
    reach.missing_part,
    reach.network_refused,
    credentials.elsewhere,
    reach.build_failed,
    said.known_message,
    in_the_code,
    reach.network_bypassed,
    programs.code_of_shell,
)


def diagnose(evidence: Evidence) -> Diagnosis | None:
    """Return the diagnosis, or None.

    For exit code 0, only a missing command is one, and refused connections, as programs hide them.
    """
    rules = RULES if evidence.exit_code != 0 else (lacking.command_not_found, reach.network_refused)
    found = next((found for rule in rules if (found := rule(evidence))), None)
    return found and reach.also_refused(found, evidence.refused)


def machine_died(cause: str) -> Diagnosis:
    """Return the diagnosis of a machine that died; `cause` is the result of `Machine.wait`."""
    if "Kernel panic" in cause:
        step = "Something in it made its kernel give up: run less at once, or not as root."
    elif cause.endswith("panicked or rebooted"):  # where the kernel's last words are not heard
        step = (
            "Something in it made its kernel give up, or rebooted it: run less at once, not as "
            "root, and leave out reboot, shutdown and the like."
        )
    elif cause.endswith("was killed by SIGKILL"):
        step = (
            "Somebody on the server killed it, often the kernel for lack of memory: the operator "
            "finds that in the server's kernel log (dmesg)."
        )
    elif cause == "the guest shut down":
        step = "Something in it shut the machine down: leave out reboot, shutdown and the like."
    else:
        step = "The operator finds more in the server's log."
    return Diagnosis(
        "guest_lost",
        f"The machine died: {cause}.",
        f"Its files are gone: create a new environment. {step}",
    )

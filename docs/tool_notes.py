# SPDX-License-Identifier: Apache-2.0
"""The notes of docs/tools.md on tools, beyond their descriptions: limits, rules and examples.

Descriptions are in every prompt, so they are short; the rest is here. `generate_tools` puts it
under each tool. A test checks the examples against the schemas.
"""

from __future__ import annotations

from typing import Any

from waggle.app.values import execution_limits
from waggle.config import load
from waggle.domain.access import MIN_SHORT
from waggle.domain.environment import MAX_TIMEOUT_MINUTES, MIN_TIMEOUT_MINUTES
from waggle.domain.exposure import MAX_EXPOSED_PORTS
from waggle.domain.files import MAX_FILE_BYTES, MAX_LIST_ENTRIES
from waggle.domain.files.search import MAX_DEPTH, MAX_ENTRIES, SEARCH_SECONDS
from waggle.domain.files.tree import (
    MAX_ARCHIVE_BYTES,
    MAX_TREE_BYTES,
    MAX_TREE_ENTRIES,
    MAX_TREE_FILE,
)
from waggle.domain.programs import HOME, MAX_CODE_BYTES
from waggle.domain.programs.job import MAX_INPUT_BYTES, MAX_WAIT_SECONDS, SIGNALS
from waggle.domain.programs.runtime import MAX_PACKAGES
from waggle.mcp.tools.run import MAX_FILES
from waggle.service.files.trees import MAX_KEPT

_LIMITS = execution_limits(load({}, is_root=False))
_KEPT = (
    "Memory, files, open files and programs continue in it: contexts with their variables, jobs "
    "with their numbers and what they have printed. Exposed ports are closed and network "
    "connections are broken."
)

NOTES: dict[str, str] = {
    "execute": f"""\
`code` has at most {MAX_CODE_BYTES:,} bytes of UTF-8 and needs no quoting. It runs as the user
`sandbox` unless `user` is `root`, and starts in the environment's working directory, {HOME} unless
the image names another. A non-zero exit code is a result, not an error. After `wait_seconds`
(default {_LIMITS.wait:g}, at most {MAX_WAIT_SECONDS:g}) the result has the output so far and a
`job_id`, and the program continues; `background` is the same as 0. It is killed after
`timeout_seconds`, at most and by default {_LIMITS.max_timeout:g}.

Without `environment_id` one is made, of `runtime` or the default one (`WAGGLE_DEFAULT_RUNTIME`), or
of another when the language needs it; its id is first in the result. It stays once the program
has started, also when that fails.

With `context`, code runs in the live interpreter of that name, language and user, which the first
call starts and in which variables, imports, functions, `cwd` and `env` stay. One call at a time
runs in it, others wait; code that is over its time is interrupted, and the variables stay.
`kill_job` ends a context; `list_jobs` has its number. `plt.show()`, figures, frames and other
displays are shown, in a context also the last value. [Contexts](contexts.md) has the rest.

Everywhere an environment's name, or {MIN_SHORT} and more
characters of its id, will do.

Common habits of models are understood: a Markdown fence around the code (its tag names the
language), a first line `#!`, a shell's commands, JavaScript or Python in the place of one another,
a session with its prompts (`$`, `>>>`), `!cmd`, `%pip` and `%%bash` as in a notebook, carriage
returns in shell code, languages as `py`, `js`, `ts`, `sh`, `bash`, paths that begin with `~/`,
numbers in `env`.""",
    "write_file": f"At most {MAX_FILE_BYTES:,} bytes (10 MiB). Missing directories are made.",
    "read_file": f"""\
Reads files of at most {MAX_FILE_BYTES:,} bytes. `offset` and `limit` count bytes. A page of text
ends with a whole character. Ask for more with `limit` only if your client takes results over
1 MiB.""",
    "edit_file": f"""\
Keeps the file's mode; refuses binary files and files over {MAX_FILE_BYTES:,} bytes.""",
    "list_files": f"By name, at most {MAX_LIST_ENTRIES:,} entries.",
    "install_packages": f"""\
1 to {MAX_PACKAGES} names, as a list or separated by spaces; versions as the installer takes them:
`numpy==2.*`, `uvicorn[standard]`, `@types/node@22`. Whole commands such as `pip install x`,
`npm i x` or `apt-get install -y x` are read as their packages, with their own installer; a command
that installs more than names (`-r requirements.txt`, a URL) is refused with the call that does
it. At most {_LIMITS.install_timeout:g} s. The next program can use them.""",
    "read_job": f"""\
With `stream`, `offset`, `limit` or `search` it answers with a page of one stream; otherwise as
`execute` does, with both. `wait_seconds` is at most {MAX_WAIT_SECONDS:g}. A job continues when this
call ends or is cancelled.""",
    "create_environment": f"""\
Give a `runtime` or a `snapshot`, or neither for the default runtime. `cpus`, `memory_mb` and
`disk_mb` are within what the operator allows (`WAGGLE_MAX_CPUS`, `WAGGLE_MAX_MEMORY_MB`,
`WAGGLE_MAX_DISK_MB`); one with more memory than usual counts as several environments, and one of
any other size than the default boots where others resume from a template. `env` is for all its
programs. `files` (at most {MAX_FILES}) are written, then `packages` installed; when these fail, the
environment stays, and the error has its id. A cancelled call continues for two minutes: the
same call again takes over its environment; otherwise that is destroyed, unless it was used.
`name` has 1 to 63 letters, digits, `.`, `_` or `-`, a letter or digit first and last, and need not
be unique. `timeout_minutes` is {MIN_TIMEOUT_MINUTES} to {MAX_TIMEOUT_MINUTES}; every call restarts
the time. `network` is `public` (the internet; never the server's own network), `none`, `ask`, or
rules, as a list or a text with commas: [Networks](network.md) has them. The operator
decides which images may be named.""",
    "destroy_environment": """\
Destroying it twice is fine. With `grace_seconds`, 30 at most, programs get a SIGTERM and that time
to end first.""",
    "get_environment": "It does not count as use: the idle time continues.",
    "set_network": """\
`network` replaces the network, in the words of `create_environment`; `allow` and `deny` add rules
to it. It holds at once, also for a paused environment, within the operator's maximum. `none` is for
good, and an environment without a network cannot get one. [Networks](network.md) has the rest.""",
    "restart_environment": """\
The machine ends and another boots from its disk, with the same name, variables, network, secrets,
ports and size: it takes a few seconds, and keeps its place under the operator's limits. Programs
have 5 s to end after a SIGTERM, with `force` none; then the disk is written. A machine that does
not answer is killed: its disk is then as after a power cut, which the result says. Programs, jobs,
contexts and what was in memory (`/dev/shm`, `/run`) are gone, and what root has mounted or set in
the kernel; installed packages are files, and stay. A job that ran is `lost`, with the time of the
restart; a call that waited for it fails with `ended_by_restart`, and does not run again under its
idempotency key. The output of jobs that had ended can still be read, but not of those that the
environment brought along as a copy. Exposed ports keep their URLs, which answer 503 meanwhile, and
the record of what the network refused goes on. Calls made meanwhile wait, and so do pauses and
copies; `destroy_environment` does not: it ends the restart, too. Of one owner, two restarts run at
once and more wait. A paused environment is restarted, too. Nothing is ended while the server's disk
is full. If the machine does not boot again, the environment ends with the `error` status.""",
    "extend_environment": "While you make calls or a job runs, nothing expires.",
    "kill_job": f"""\
Killing one that has ended is fine. Of a context it ends the interpreter.
A `signal` ({", ".join(SIGNALS)}; SIG before it and lower case are fine) goes to the program and
its process group, and not to a job that has ended.""",
    "write_job": f"""\
At most {MAX_INPUT_BYTES:,} bytes of UTF-8 in one call. The program must have been started with
`stdin_open`. A paused environment is resumed. A call that ends with `timeout`, as the program does
not read, may have written a part.""",
    "search_files": f"""\
Works in every image. A `name` with a slash is a glob for paths below `path`; `{{a,b}}`, `[ab]` and
`?` are known. Regular expressions may have `\\d`, `\\w`, `\\s` and `\\b`, but no lookaround and no
lazy repetition. Links are not followed; binary files and files over {MAX_FILE_BYTES:,} bytes are
not searched. Ends early after {SEARCH_SECONDS} s, {MAX_ENTRIES:,} entries or {MAX_DEPTH} levels,
and says so.""",
    "upload_files": f"""\
At most {MAX_ARCHIVE_BYTES:,} bytes, {MAX_TREE_ENTRIES:,} entries, {MAX_TREE_BYTES:,} bytes
unpacked, {MAX_TREE_FILE:,} in one file. Files of the same name are replaced. Entries that are
absolute, climb out with `..` or are devices make it refuse the whole archive.""",
    "download_files": f"""\
At most {MAX_TREE_ENTRIES:,} entries and {MAX_TREE_BYTES:,} bytes. A large archive comes in pages:
call again with `archive_id` and `offset` set to `next_offset`. The last {MAX_KEPT} archives of an
environment stay readable, also as resources.""",
    "expose_port": f"""\
The program listens on 127.0.0.1, ::1 or all addresses, on any port. `url` is reachable on the
server's machine only; `public_url` is for others, and is there if the server has a name beyond its
machine or `link_minutes` is given ([ports.md](ports.md)). Both work with the network `none`, too,
stay until `unexpose_port` or the end of the environment, and wake it while it is paused. At most
{MAX_EXPOSED_PORTS} ports.""",
    "unexpose_port": "Ends all connections and links to it.",
    "pause_environment": """\
Jobs and contexts stop, and go on when it is resumed; a call that waits for a job is answered. With
`to_disk` it takes no memory either, leaves its place among the environments, survives a restart of
the server and is kept for longer (see `on_disk_until`).""",
    "resume_environment": """\
Not needed before other calls, which resume it themselves; but the next one need not wait then.
A running one stays as it is.""",
    "snapshot_environment": _KEPT,
    "fork_environment": f"""\
Every copy is an environment of its own, counts as one and is to be destroyed; all of them or none
are made. {_KEPT} `code` runs in the copy's only live context of the environment's language, unless
`context` names one; without any, in a new process.""",
    "keep_fork": """\
The fork keeps its id and takes the original's name, though not the host name inside; nothing is
destroyed before that is recorded, and a call that was interrupted can be repeated, also after a
restart of the server. Forks that other calls made of the original stay, and so do its snapshots. If
the original is gone, its name is free to take, unless another environment has it by now.""",
    "delete_snapshot": "The number that one owner may keep is limited.",
    "run_code": f"""\
At most {MAX_FILES} text files. Takes seconds longer than `execute` in an environment that runs
already.""",
}
_BOX = {"environment_id": "3f2a9c"}
EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "execute": [
        {"code": "print(6 * 7)"},
        {**_BOX, "code": "import pandas as pd; df = pd.read_csv('a.csv'); df", "context": "main"},
        {**_BOX, "code": "df.plot(); plt.show()", "context": "main"},
        {**_BOX, "code": "ls -l | head", "language": "shell"},
        {**_BOX, "code": "apt-get install -y jq", "language": "shell", "user": "root"},
        {**_BOX, "code": "python3 -m http.server 8000", "language": "shell", "background": True},
    ],
    "write_file": [
        {**_BOX, "path": "src/app.py", "content": "print(1)\n"},
        {**_BOX, "path": "bin/run.sh", "content": "#!/bin/sh\nls\n", "mode": "0755"},
    ],
    "read_file": [{**_BOX, "path": "src/app.py"}],
    "edit_file": [
        {
            **_BOX,
            "path": "src/app.py",
            "old_text": "DEBUG = True",
            "new_text": "DEBUG = False",
        }
    ],
    "list_files": [{**_BOX, "path": "src"}],
    "install_packages": [
        {**_BOX, "packages": ["numpy", "pandas==2.*"]},
        {"runtime": "node", "packages": ["typescript", "@types/node"]},
    ],
    "read_job": [
        {**_BOX, "job_id": 3, "wait_seconds": 60},
        {**_BOX, "job_id": 3, "offset": -2000},
        {**_BOX, "job_id": 3, "search": "ERROR"},
        {**_BOX, "job_id": 3, "kill": True},
        _BOX,
    ],
    "create_environment": [
        {"runtime": "python"},
        {"runtime": "node", "name": "build", "timeout_minutes": 60, "network": "none"},
        {"memory_mb": 2048, "env": ["MODE=test"], "packages": ["httpx"]},
    ],
    "list_environments": [{}],
    "destroy_environment": [_BOX],
    "restart_environment": [_BOX, {**_BOX, "force": True}],
    "extend_environment": [{**_BOX, "minutes": 60}],
    "run_command": [
        {**_BOX, "command": "pytest -q 2>&1 | tail -20"},
        {**_BOX, "command": "apt-get install -y jq", "user": "root"},
    ],
    "kill_job": [{**_BOX, "job_id": 3}, {**_BOX, "job_id": 3, "signal": "INT"}],
    "write_job": [
        {**_BOX, "job_id": 3, "text": "yes\n"},
        {**_BOX, "job_id": 3, "text": "", "close": True},
    ],
    "wait_job": [{**_BOX, "job_id": 3, "wait_seconds": 60}],
    "search_files": [
        {**_BOX, "name": "*.toml"},
        {**_BOX, "path": "src", "content": "def main", "name": "*.py"},
        {**_BOX, "content": "TODO|FIXME", "regex": True, "context_lines": 2},
    ],
    "upload_files": [{**_BOX, "archive": "H4sIAAAA...", "path": "project"}],
    "download_files": [
        {**_BOX, "path": "project", "exclude": ["node_modules", "*.pyc"]},
        {**_BOX, "path": "project", "archive_id": "0f3a...", "offset": 360_000},
    ],
    "expose_port": [{**_BOX, "port": 8000}, {**_BOX, "port": 3000, "wait_seconds": 60}],
    "set_network": [
        {**_BOX, "network": "@packages, *.example.org"},
        {**_BOX, "allow": ["git.example.org:22"], "deny": ["ads.example.org"]},
    ],
    "pause_environment": [{**_BOX, "to_disk": True}],
    "snapshot_environment": [{**_BOX, "name": "packages-installed"}],
    "fork_environment": [
        {**_BOX, "count": 3},
        {**_BOX, "code": ["fit(depth=2)", "fit(depth=8)"], "context": "main"},
    ],
    "keep_fork": [_BOX],
    "rollback_environment": [{**_BOX, "snapshot_id": "0b9a3c"}],
    "run_code": [
        {"code": "import numpy; print(numpy.pi)", "packages": ["numpy"]},
        {
            "runtime": "shell",
            "code": "wc -l data.csv",
            "files": [{"path": "data.csv", "content": "a,b"}],
            "network": "none",
        },
    ],
}

# SPDX-License-Identifier: Apache-2.0
"""How the runtimes install packages by default: the words before the packages. Pure.

Read by the settings, whose commands replace these. They run as root, also in images that are not
waggle's, so each looks at what it finds.
"""

from __future__ import annotations

import shlex

_PIP = """\
import importlib.util, os, pwd, shutil, sys, sysconfig
mine = sys.executable
where = "/home/sandbox"
words = ["--user"]
if sys.prefix != sys.base_prefix:
    where = sysconfig.get_path("purelib")
    words = []
owner = os.stat(where)
if owner.st_uid:
    os.setgroups([owner.st_gid])
    os.setgid(owner.st_gid)
    os.setuid(owner.st_uid)
    home = "/home/sandbox"
    try:
        at = pwd.getpwuid(owner.st_uid).pw_dir
        home = at if os.stat(at).st_uid == owner.st_uid else home
    except (KeyError, OSError):
        pass
    os.environ["HOME"] = home
base = getattr(sys, "_base_executable", mine)
pip = [base, "-m", "pip", "--python", mine, "--no-input"]
if importlib.util.find_spec("pip"):
    pip = [mine, "-m", "pip", "--no-input"]
elif shutil.which("uv"):
    pip = [shutil.which("uv"), "pip"]
os.chdir("/")
os.execv(pip[0], [*pip, "install", *words, *sys.argv[1:]])
"""
"""Installs for the user or, where PATH begins with a virtual environment, into that as its owner.

One without pip of its own, as uv makes them, is served by uv or by the pip it was made from.
"""
_APT = """\
if command -v apk >/dev/null; then exec apk add --no-cache -- "$@"; fi
mkdir -p /usr/share/man/man1 /usr/share/man/man5 /usr/share/man/man7 /usr/share/man/man8
try() { apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=60 -- "$@"; }
if ls /var/lib/apt/lists/*Packages* >/dev/null 2>&1; then try "$@" && exit; fi
rm -rf /var/lib/apt/lists/*
apt-get update -q && try "$@"
"""
"""Lists that are there may be too old for what is in the archive now, so they are fetched again.

Packages put links to manual pages where small images have no directory.
"""

PYTHON = f"python3 -Ic {shlex.quote(_PIP)} {{packages}}"
NODE = "npm install --prefix /home/sandbox --no-audit --no-fund {packages}"
SHELL = f"sh -c {shlex.quote(_APT)} install {{packages}}"

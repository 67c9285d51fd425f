# SPDX-License-Identifier: Apache-2.0
"""Places for the guest agent where it sees, or can end and freeze, no more than a test gives it.

Each is a command to put in front of the agent's. It makes a namespace that ends with the agent.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.programs import program

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can mount")

_BIND = 'mount --bind "$1" "$2"; shift 2; exec "$@"'
_DISK = 'mount -o loop "$1" "$2"; shift 2; exec "$@"'
_ROOT = """
root=$1 image=$2
shift 2
mount -t tmpfs none "$root"
for word; do
  if [ -f "$word" ]; then mkdir -p "$root${word%/*}"; cp "$word" "$root$word"; fi
done
mkdir "$root/disk" "$root/proc"
mount -t proc none "$root/proc"
mount -o loop "$image" "$root/disk"
exec chroot "$root" "$@"
"""
# PID 1 of a namespace: it ends, and everything with it, with the number of the first signal, or
# with the agent.
_INIT = """
import os, signal, sys
for number in (signal.SIGTERM, signal.SIGUSR2, 38, 39):
    signal.signal(number, lambda number, frame: os._exit(number))
count = int(sys.argv[1])
agent = os.fork()
if agent == 0:
    os.execvp(sys.argv[2 + count], [*sys.argv[2 + count :], *sys.argv[2 : 2 + count]])
while os.wait()[0] != agent:
    pass
"""

_MOUNT = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def mount(source, target, type, flags=0, data=""):
    os.makedirs(target, exist_ok=True)
    words = [os.fsencode(word) for word in (source, target, type)]
    if libc.mount(*words, flags, os.fsencode(data)):
        raise OSError(ctypes.get_errno(), target)
BIND, REMOUNT, READ_ONLY = 4096, 32, 1
"""
SILENT = """
kept = os.open("/dev/fuse", os.O_RDWR)
os.set_inheritable(kept, True)
mount("silent", "%s", "fuse.silent", 0, f"fd={kept},rootmode=40000,user_id=0,group_id=0")
"""
"""Code that mounts a file system, at `%s`, whose program never answers."""


def _mounting(script: str, *words: object) -> tuple[str, ...]:
    return ("unshare", "--mount", "sh", "-ec", script, "sh", *map(str, words))


def with_directory(directory: Path, at: Path) -> tuple[str, ...]:
    """See `directory` at another place."""
    return _mounting(_BIND, directory, at)


def with_disk(image: Path, at: Path) -> tuple[str, ...]:
    """See a disk that is mounted."""
    return _mounting(_DISK, image, at)


def with_disk_only(root: Path, image: Path) -> tuple[str, ...]:
    """See nothing but a disk at `/disk`. The agent must be linked statically."""
    return _mounting(_ROOT, root, image)


def with_init(*options: str) -> tuple[str, ...]:
    """Have a PID 1 of one's own. It ends the command with the number of a signal that it gets.

    `options` are the agent's.
    """
    fork = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    return (*fork, sys.executable, "-c", _INIT, str(len(options)), *options)


def after(code: str, *namespaces: str) -> tuple[str, ...]:
    """Run Python code in new namespaces first."""
    run = f"import os, sys\n{code}\nos.execvp(sys.argv[1], sys.argv[1:])"
    return ("unshare", *namespaces, sys.executable, "-c", run)


def mounting(code: str) -> tuple[str, ...]:
    """Run Python code first that may call `mount(source, target, type, flags, data)`."""
    return after(_MOUNT + code, "--mount")


def disk_image(path: Path) -> Path:
    """Make a disk of 16 MiB with ext4."""
    with path.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run([program("mke2fs"), "-q", "-t", "ext4", "-F", path], check=True)
    return path

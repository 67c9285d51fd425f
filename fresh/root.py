# SPDX-License-Identifier: Apache-2.0
"""Bare roots: a directory with a minimal Debian, and a way to run programs in it.

Called by `fresh.__main__`. However this process ends, the directory is removed and the programs in
it end: a janitor waits for the end of this process, and every program has its own namespaces, which
end with it. Knows nothing of the programs that it runs. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from fresh.beside import noted, output
from fresh.configuration import Configuration
from waggle.domain.errors import SetupIncomplete
from waggle.infra.shared import debian

PACKAGES = ("git", "python3", "ca-certificates")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LATE, LEFT = 124, 97
GRACE_SECONDS = 60.0
_APART = (
    *("setpriv", "--pdeathsig=KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
)
"""A command's prefix: its mounts and processes end with it, and it ends with this process."""
_ENTER = Path(__file__).with_name("enter.sh")
_REMOVE = """
trap '' INT TERM HUP
read -r _
for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf --one-file-system -- "$1" && exit; sleep 1; done
exit 1
"""
_TRUSTED = "usr/local/share/ca-certificates"


@dataclass(frozen=True, slots=True)
class User:
    """The user that runs a program in a root."""

    name: str
    uid: int
    home: str


ROOT = User("root", 0, "/root")
ORDINARY = User("waggle", 1000, "/home/waggle")


@contextlib.contextmanager
def workplace() -> Generator[Path]:
    """Make an empty directory on a disk, removed at the end of the block or of this process.

    Raises SetupIncomplete if it cannot be removed completely.
    """
    place = Path(tempfile.mkdtemp(prefix="waggle-fresh-", dir="/var/tmp"))
    place.chmod(0o755)  # apt fetches as its own user
    # No other process holds the writer, so the janitor reads end-of-file when this process ends.
    reader, writer = os.pipe()
    janitor = subprocess.Popen(
        ["sh", "-c", _REMOVE, "sh", place], stdin=reader, start_new_session=True
    )
    os.close(reader)
    try:
        yield place
    finally:
        os.close(writer)
        if janitor.wait() != 0:
            raise SetupIncomplete(f"{place} could not be removed.", hint="Remove it by hand.")


def make(suite: str, tree: Path) -> None:
    """Make a minimal Debian. Raises SetupIncomplete."""
    argv = ["mmdebstrap", "--variant=minbase", "--mode=root", "--quiet"]
    argv += [f"--include={','.join(PACKAGES)}", '--aptopt=Acquire::Check-Valid-Until "false"']
    archive = f"deb {debian.mirror(None)} {suite} main"
    run([*argv, suite, str(tree), archive])


def configure(tree: Path, configuration: Configuration) -> None:
    """Give a minimal Debian this machine's package configuration. Raises SetupIncomplete."""
    tree.parent.chmod(0o700)  # it holds possible secrets from here on
    for name in ("etc/apt/sources.list", "etc/apt/apt.conf.d/99mmdebstrap"):
        (tree / name).unlink(missing_ok=True)
    _write(tree, configuration.files)
    _write(tree / "root", configuration.home, 0o600)
    _write(tree / "etc/skel", configuration.home, 0o600)
    for path in configuration.copied:
        _copy(path, tree / path.relative_to("/"))
    known = (tree / "etc/ssl/certs/ca-certificates.crt").read_text("ascii")
    for number, certificate in enumerate(configuration.certificates):
        if certificate not in known:
            _write(tree / _TRUSTED, {f"here-{number}.crt": f"{certificate}\n".encode()})
    run(["chroot", str(tree), "update-ca-certificates"])


def clone(checkout: Path, tree: Path, user: User) -> None:
    """Put a clean clone of the checkout's HEAD into the user's home. Raises SetupIncomplete."""
    target = tree / user.home.lstrip("/") / "waggle"
    run(["git", "clone", "--quiet", "--no-local", f"file://{checkout}", str(target)])
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=checkout, check=True, capture_output=True, text=True
    ).stdout.strip()
    run(["git", "-C", str(target), "checkout", "--quiet", "--detach", head])
    run(["chown", "-R", f"{user.uid}:{user.uid}", str(target)])


def build_wheel(checkout: Path, tree: Path, user: User) -> None:
    """Put the wheel of the checkout's HEAD and the scripts of `steps` into the user's home.

    Raises SetupIncomplete.
    """
    home = tree / user.home.lstrip("/")
    with tempfile.TemporaryDirectory(dir=tree.parent) as work:
        clone(checkout, Path(work), user)
        source = Path(work) / user.home.lstrip("/") / "waggle"
        hatchling = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(home)]
        run(["env", "-C", str(source), *hatchling])
        shutil.copytree(source / "fresh/steps", home / "steps")


def copy(tree: Path, target: Path) -> None:
    """Copy a root. Raises SetupIncomplete."""
    run(["cp", "--archive", "--reflink=auto", str(tree), str(target)])


def run_in(
    tree: Path, user: User, command: str, variables: Mapping[str, str], seconds: float
) -> int:
    """Run a shell command in a root as a user, in that user's home. Returns as `enter` does."""
    become = ["setpriv", f"--reuid={user.uid}", f"--regid={user.uid}", "--init-groups"]
    own = {"HOME": user.home, "USER": user.name, "LOGNAME": user.name}
    program = [*become, "bash", "-c", f"cd && {command}"]
    return enter(tree, program, seconds, {**variables, **own})


def enter(
    tree: Path,
    program: Sequence[str],
    seconds: float,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """Run a program in a root and return its exit code, or LEFT if only processes were left behind.

    It gets these variables and PATH. All its processes end with this process, and after `seconds`,
    which returns LATE. It writes to this process's output, or that of work beside it.
    """
    process = subprocess.Popen(
        [*_APART, "sh", _ENTER, tree, *program],
        stdin=subprocess.DEVNULL,
        stdout=output(),
        stderr=output(),
        env={**variables, "PATH": PATH},
    )
    try:
        with noted(process):
            return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return LATE
    except KeyboardInterrupt:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)  # a terminal also interrupts the programs inside
        raise
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _write(directory: Path, files: Mapping[str, bytes], mode: int = 0o644) -> None:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.touch(mode=mode)
        path.write_bytes(content)


def _copy(source: Path, target: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def run(argv: Sequence[str]) -> None:
    """Run a program to its end, with its output on standard error. Raises SetupIncomplete.

    Nothing that it starts or mounts outlives it or this process.
    """
    process = subprocess.Popen(
        [*_APART, *argv], stdin=subprocess.DEVNULL, stdout=output() or sys.stderr, stderr=output()
    )
    try:
        with noted(process):
            code = process.wait()
    finally:
        process.kill()
        process.wait()
    if code:
        raise SetupIncomplete(f"{argv[0]} ended with status {code}.", hint="See above.")

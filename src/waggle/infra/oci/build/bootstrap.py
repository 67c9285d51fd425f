# SPDX-License-Identifier: Apache-2.0
"""Debian trees made with mmdebstrap and streamed as a tar, and the difference of two trees.

Called by `build`. mmdebstrap runs as root or in a user namespace, in a session that ends with the
call. The Debian archive is the caller's or that of the host's apt configuration. The difference is
a layer's tree: changes, and whiteouts for removed files. Times are ignored: files are the same when
content and attributes are.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
from collections import deque
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from threading import Thread
from typing import IO, BinaryIO, cast

from waggle.domain.errors import SetupIncomplete
from waggle.infra.oci.build.definition import ImageDefinition
from waggle.infra.oci.layers.merge import Node
from waggle.infra.shared import confined, debian

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INSTALL = "Run 'waggle setup', or 'apt-get install mmdebstrap uidmap'."
_NO_MIRROR = "Set WAGGLE_DEBIAN_MIRROR to the address of a Debian archive."
_KEPT_LINES = 12
_URI = re.compile(r"(?:https?|file|mirror\+file|copy)://?[^\s\"'\\\[\]]+|mirror://[^\s\"'\\\[\]]+")


def debian_mirror(configured: str = "") -> str:
    """Return the archive's base address: `configured`, or the host's, or mmdebstrap's default.

    Raises SetupIncomplete when there is none or it is unusable: it is no address, or it holds a
    password, which the image would show.
    """
    uri = debian.mirror(configured)
    if not _URI.fullmatch(uri):
        raise SetupIncomplete("The address of the Debian archive is not usable.", hint=_NO_MIRROR)
    if "@" in uri.partition("://")[2].partition("/")[0]:
        raise SetupIncomplete(
            "The address of the Debian archive holds a password, which the image would show.",
            hint="Put the password into /etc/apt/auth.conf.d and name the archive without it.",
        )
    return uri


def mmdebstrap_mode(uid: int, subuid: Path = Path("/etc/subuid")) -> str:
    """Return `root` or `unshare`. Raises SetupIncomplete when neither can work."""
    if shutil.which("mmdebstrap", path=_PATH) is None:
        raise SetupIncomplete("Building an image needs mmdebstrap.", hint=_INSTALL)
    if uid == 0:
        return "root"
    if shutil.which("newuidmap", path=_PATH) is None:
        raise SetupIncomplete("Building an image without root needs newuidmap.", hint=_INSTALL)
    if refused := confined.refusal(uid):
        raise SetupIncomplete(
            f"Building an image without root needs user namespaces: {refused}.",
            hint=confined.NEXT_STEP,
        )
    import pwd  # noqa: PLC0415 (POSIX only, like this function)

    with contextlib.suppress(KeyError, OSError):
        owner = {pwd.getpwuid(uid).pw_name, str(uid)}
        if any(line.split(":")[0] in owner for line in subuid.read_text("ascii").splitlines()):
            return "unshare"
    raise SetupIncomplete(
        "Building an image without root needs a range of subordinate user ids.",
        hint="Run 'usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER' as root.",
    )


def bootstrap_argv(
    definition: ImageDefinition,
    mirror: str,
    mode: str,
    temporary: Path | None,
    lower: Path | None = None,
    wheels: Path | None = None,
) -> list[str]:
    """Return the command that writes the tree to standard output. Pure.

    `lower` is a tar of the tree to extend, `wheels` a directory with the wheels that pip is to
    install and a `requirements.txt`.
    """
    environment = [f"PATH={_PATH}", "LC_ALL=C.UTF-8", f"SOURCE_DATE_EPOCH={definition.epoch}"]
    inside = shlex.join(["env", "-i", *environment, "HOME=/root", "PYTHONHASHSEED=0"])
    hooks: list[str] = []
    options = [f"--mode={mode}", '--aptopt=Acquire::Languages "none"']
    options.append("--dpkgopt=force-unsafe-io")  # the tree is useless after a crash
    if lower is not None:
        hooks.append(f"--setup-hook=tar-in {shlex.quote(str(lower))} /")
        options.append("--skip=chroot/policy-rc.d")  # the tree has one, which would be removed
        if definition.packages:
            hooks.append(f"--customize-hook={_APT} {shlex.join(definition.packages)}")
        else:
            options.append("--skip=update")
    commands = definition.warm_up
    if wheels is not None:
        hooks.append(f"--customize-hook=copy-in {shlex.quote(str(wheels))} /tmp")
        place = f"/tmp/{wheels.name}"  # noqa: S108 (inside the tree)
        commands = (_pip(place, definition.requirements), ("rm", "-r", place), *commands)
    hooks += [
        f'--customize-hook=chroot "$1" {inside} {shlex.join(command)}' for command in commands
    ]
    tree = debian.tree_argv(
        mirror,
        suite=definition.suite,
        packages=() if lower else definition.packages,
        variant="custom" if lower else definition.variant,
        hooks=hooks,
        options=options,
        form="tar",
    )
    return ["env", *environment, *([f"TMPDIR={temporary}"] if temporary else []), *tree]


_APT = (
    # As mmdebstrap does it: apt runs outside, where the network and the keys are.
    'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" DEBIAN_FRONTEND=noninteractive apt-get --yes'
    " -o Dir::Bin::dpkg=env -o DPkg::Options::=--unset=TMPDIR -o DPkg::Options::=dpkg"
    ' -o DPkg::Chroot-Directory="$1" install'
)


def _pip(place: str, requirements: str) -> tuple[str, ...]:
    """Return the install command. If pip itself is to be installed, it runs from its wheel."""
    own = re.search(r"^pip==(\S+)", requirements, re.MULTILINE)
    return (
        "python3",
        *((f"{place}/pip-{own[1]}-py3-none-any.whl/pip",) if own else ("-m", "pip")),
        *("install", "--quiet", "--no-index", "--no-deps", "--no-compile"),
        *("--no-cache-dir", "--require-hashes", "--root-user-action=ignore"),
        *(f"--find-links={place}", f"--requirement={place}/requirements.txt"),
    )


@contextlib.contextmanager
def debian_tree(argv: Sequence[str], report: Callable[[str], None]) -> Generator[BinaryIO]:
    """Run `argv` and give its standard output; on leaving, check that it succeeded.

    `report` gets every line that it logs, in another thread. An exception in the block ends the
    whole session of processes. Raises SetupIncomplete with the last lines when the command fails.
    """
    log: deque[str] = deque(maxlen=_KEPT_LINES)
    process = subprocess.Popen(
        [*debian.own_mounts(), *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        cwd="/",  # mmdebstrap's mapped users may not have access to the caller's directory
    )
    assert process.stdout is not None and process.stderr is not None  # noqa: S101, PT018 (pipes)
    reader = Thread(target=_log, args=(process.stderr, log, report), daemon=True)
    reader.start()
    try:
        yield cast("BinaryIO", process.stdout)
        process.stdout.read()
        code = process.wait()
        reader.join()
    except BaseException:
        _end(process)
        reader.join(5)
        raise
    finally:
        process.stdout.close()
        process.stderr.close()
    if code:
        lines = "\n".join(log)
        raise SetupIncomplete(
            f"mmdebstrap ended with status {code}. Its last lines:\n{lines}\n",
            hint="Check that 'apt-get update' works here, or set WAGGLE_DEBIAN_MIRROR.",
        )


def _log(stream: IO[bytes], log: deque[str], report: Callable[[str], None]) -> None:
    with contextlib.suppress(ValueError, OSError):
        for raw in stream:
            line = raw.decode("utf-8", "replace").rstrip()
            log.append(line)
            report(line)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the session: with SIGTERM, so that mmdebstrap removes its tree, then with SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
            return


_CHUNK = 1 << 20


def difference(
    lower: Node,
    lower_files: Sequence[Path],
    upper: Node,
    upper_files: Sequence[Path],
    *,
    removals: bool,
) -> Node:
    """Return the part of `upper` that turns `lower` into it; its contents are in `upper_files`.

    Without `removals`, files missing in `upper` are not treated as removed. Directories on the way
    to a change are included, as `upper` has them. Reads both versions of files that may be the
    same; raises OSError.
    """
    with contextlib.ExitStack() as stack:

        def opened(files: Sequence[Path]) -> list[int]:
            return [stack.enter_context(path.open("rb")).fileno() for path in files]

        return _Differ(opened(lower_files), opened(upper_files), removals).changes(lower, upper)


def adopt(lower: Node, upper: Node) -> None:
    """Give the directories of `upper` the owner, mode, xattrs and time that they have in `lower`.

    For a tree of additions only, whose directories have no description.
    """
    pairs = [(lower, upper)]
    while pairs:
        below, above = pairs.pop()
        above.mode, above.uid, above.gid, above.xattrs = (
            below.mode, below.uid, below.gid, below.xattrs,
        )  # fmt: skip
        above.mtime_ns = below.mtime_ns
        for name, child in above.children.items():
            found = below.children.get(name)
            if child.is_dir and found is not None and found.is_dir:
                pairs.append((found, child))


class _Differ:
    def __init__(self, lower: Sequence[int], upper: Sequence[int], removals: bool) -> None:
        self._lower = lower
        self._upper = upper
        self._removals = removals

    def changes(self, lower: Node, upper: Node) -> Node:
        """Return `upper` with only the children that differ, and whiteouts."""
        changed = Node(upper.mode, upper.uid, upper.gid, upper.mtime_ns, xattrs=upper.xattrs)
        gone = lower.children.keys() - upper.children.keys() if self._removals else ()
        for name in gone:
            changed.children[b".wh." + name] = Node(stat.S_IFREG | 0o644)
        for name, node in upper.children.items():
            old = lower.children.get(name)
            if old is None or old.is_dir != node.is_dir:
                changed.children[name] = node
            elif not node.is_dir:
                if not self._same(old, node):
                    changed.children[name] = node
            else:
                inner = self.changes(old, node)
                if inner.children or not _alike(old, node):
                    changed.children[name] = inner
        return changed

    def _same(self, old: Node, new: Node) -> bool:
        return (
            _alike(old, new)
            and (old.size, old.link, old.device) == (new.size, new.link, new.device)
            and self._same_content(old, new)
        )

    def _same_content(self, old: Node, new: Node) -> bool:
        (source, start), (other, begin) = old.content, new.content
        return all(
            os.pread(self._lower[source], size, start + at)
            == os.pread(self._upper[other], size, begin + at)
            for at in range(0, new.size, _CHUNK)
            for size in [min(_CHUNK, new.size - at)]
        )


def _alike(old: Node, new: Node) -> bool:
    same = (old.mode, old.uid, old.gid) == (new.mode, new.uid, new.gid)
    return same and sorted(old.xattrs) == sorted(new.xattrs)

# SPDX-License-Identifier: Apache-2.0
"""A runner gives up what a machine does not need, just before it becomes one.

Afterwards: a user of its own, no capabilities, no network at all, none of the host's System V or
POSIX queues, only the system calls of a list (`calls`), and a file system with /dev/kvm, the
directory of its socket and its own entries of /proc. Where the kernel does not allow namespaces
(some containers), the rest still holds. New privileges, core dumps and descriptors were limited by
`waggle.infra.shared.confined` before.
"""

from __future__ import annotations

import os

from waggle.infra.krun.calls import runner_filter
from waggle.infra.krun.configuration import Configuration
from waggle.infra.shared.confinement import namespaces, seccomp
from waggle.infra.shared.confinement._abi import ffi
from waggle.infra.shared.confinement.namespaces import BIND, SmallRoot


def confine(configuration: Configuration) -> None:
    """Confine this process and change to the directory of its socket. Not to be undone.

    Raises OSError when the user cannot be changed, and ProcessLookupError when the server is gone.
    """
    libc = ffi.dlopen(None)
    os.umask(0o022)  # its user has to pass through the directories made here
    namespaces.die_first()
    try:
        namespaces.enter(libc, user=configuration.uid < 0)
        _narrow_view(SmallRoot(libc, configuration.directory), configuration.directory)
    except OSError as error:
        os.write(2, f"waggle: the runner keeps the host's view: {error}\n".encode())
        os.fchdir(configuration.directory_fd)
    os.close(configuration.directory_fd)  # through it the host's files could be reached
    group = configuration.kvm_gid
    namespaces.become(libc, configuration.uid, [group] if group >= 0 else [])
    namespaces.die_with(libc, configuration.parent)
    seccomp.install(libc, runner_filter(os.getpid()))


def _narrow_view(root: SmallRoot, directory: str) -> None:
    """A small read-only root over the socket's directory, and nothing else."""
    held = os.open(directory, os.O_PATH)  # the inherited one is of the host's name space
    root.begin()
    root.directory("dev")
    root.device("/dev/kvm")
    root.directory("run")
    root.mount(f"/proc/self/fd/{held}", "run", None, BIND)
    os.close(held)
    root.processes()
    root.pivot()
    os.chdir("run")

# SPDX-License-Identifier: Apache-2.0
"""The process of one machine: reads its configuration, confines itself, and becomes the machine.

`machine` starts the process, which calls `main` and ends with the guest. Earlier failures are
reported on stderr, with exit status FAILED; 0 proves nothing, because libkrun also ends with it
after a panic. This process must finish its imports before it is confined.
"""

from __future__ import annotations

import os
import sys

from waggle.infra.krun.configuration import Configuration, decode
from waggle.infra.krun.confine import confine
from waggle.infra.krun.library import KrunError, Libkrun

FAILED = 3
SAYS = "waggle: the machine cannot start: "
_MAX_CONFIGURATION = 1 << 16


def configure(library: Libkrun, configuration: Configuration) -> None:
    """Describe the machine to libkrun. Raises KrunError, and OSError when KVM cannot be opened."""
    os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    most = library.max_vcpus()
    if configuration.cpus > most:
        raise KrunError(f"KVM gives a machine at most {most} processors here.")
    library.set_size(configuration.cpus, configuration.memory_mib)
    library.set_kernel(_path(configuration.kernel_fd), configuration.command_line)
    library.add_disk("kit", _path(configuration.kit_fd), read_only=True)
    library.add_disk("image", _path(configuration.image_fd), read_only=True)
    library.add_disk("scratch", _path(configuration.scratch_fd), read_only=False)
    library.add_disk("identity", _path(configuration.identity_fd), read_only=True)
    library.add_vsock(configuration.ssh_port, configuration.socket)
    library.set_console(_path(configuration.console_fd))
    library.add_ports(
        (configuration.agent_port, configuration.agent_fd),
        (configuration.renewal_port, configuration.renewal_fd),
    )


def _path(descriptor: int) -> str:
    """Return a path to the file that the server opened: libkrun takes only paths."""
    return f"/proc/self/fd/{descriptor}"


def main() -> int:
    """Run one machine; return only when that failed."""
    try:
        configuration = decode(sys.stdin.buffer.read(_MAX_CONFIGURATION))
        library = Libkrun(configuration.library)
        library.create()
        confine(configuration)
        os.umask(0o177)  # for the socket
        configure(library, configuration)
        library.start()
    except (KrunError, OSError, ValueError, TypeError) as error:
        os.write(2, f"{SAYS}{error}\n".encode("utf-8", "backslashreplace"))
    return FAILED

# SPDX-License-Identifier: Apache-2.0
"""What programs in the guest may do with vsock: nothing where the first process listens."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.support.programs import program
from tests.support.vm import command, lines

from waggle.domain.programs import GuestUser
from waggle.service.local.guest import LocalGuest

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("leaks"),
]
BIND = r"""
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void) {
  for (unsigned port = 22; port <= 24; port++) {
    struct { sa_family_t family; unsigned short no; unsigned port, cid, flags; } any = {
        40, 0, port, -1u, 0};
    int fd = socket(40, SOCK_STREAM, 0);
    puts(bind(fd, (struct sockaddr *)&any, sizeof any) ? strerror(errno) : "taken over");
    close(fd);
  }
}
"""


async def test_the_ports_of_the_first_process_are_not_for_programs(
    guest: LocalGuest, tmp_path: Path
) -> None:
    (tmp_path / "bind.c").write_text(BIND)
    made = tmp_path / "bind"
    subprocess.run([program("cc"), "-static", "-o", made, tmp_path / "bind.c"], check=True)
    await guest.write_file("/tmp/bind", made.read_bytes(), 0o755)
    ran = await guest.run(command("/tmp/bind", user=GuestUser.SANDBOX))
    assert lines(ran) == ["Permission denied"] * 3

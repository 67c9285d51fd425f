# SPDX-License-Identifier: Apache-2.0
"""Any image works: one that holds a single file, and the real python image."""

from __future__ import annotations

import pytest
from tests.support.vm import BUSYBOX, PYTHON, Lab, command, lines, root, sh

from waggle.domain.image import BootImage
from waggle.service.local.guest import LocalGuest

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("leaks"),
]
FILE = "{file}"


@pytest.fixture(scope="module")
async def python(shared_lab: Lab, python_image: BootImage) -> LocalGuest:
    shared_lab.images.known[PYTHON] = python_image
    return await shared_lab.guest(PYTHON, memory=384, disk=512)


async def test_an_image_with_one_program_boots_and_runs_it(guest: LocalGuest) -> None:
    assert lines(await guest.run(command("/bin/busybox", "echo", "from scratch"))) == [
        "from scratch"
    ]
    assert lines(await guest.run(command("/bin/busybox", "ls", "/bin"))) == [BUSYBOX]
    assert (await guest.run(command("/bin/sh", "-c", "true"))).exit_code == 127


async def test_an_image_with_one_program_gets_what_programs_expect(guest: LocalGuest) -> None:
    shown = lines(
        await guest.run(
            sh(
                "cat /etc/passwd; ls -ld /home/sandbox /tmp | cut -c1-10; ls /proc/self/status;"
                "ls -l /dev/null | cut -c1-10; echo x > /dev/shm/x; echo x > /tmp/x; tty; echo end"
            )
        )
    )
    assert shown == [
        "root:x:0:0:root:/root:/bin/sh",
        "sandbox:*:1000:1000:waggle:/home/sandbox:/bin/sh",
        "drwxr-xr-x",
        "drwxrwxrwt",
        "/proc/self/status",
        "crw-rw-rw-",
        "not a tty",
        "end",
    ]
    assert (await root(guest, "mount | grep -c ' on / type overlay'")).strip() == "1"


async def run(guest: LocalGuest, code: str, timeout: float = 60.0) -> list[str]:
    source = command("python3", FILE, code=code.encode(), extension=".py", timeout=timeout)
    return lines(await guest.run(source))


async def test_python_code_can_import_modules_of_the_user(python: LocalGuest) -> None:
    await python.write_file("/home/sandbox/mine.py", b"value = 'mine'\n", 0o644)
    shown = await run(python, "import mine, sys, os\nprint(mine.value, os.getuid(), sys.argv[1:])")
    assert shown == ["mine 1000 []"]


async def test_a_python_error_is_a_result(python: LocalGuest) -> None:
    result = await python.run(command("python3", FILE, code=b"1/0", extension=".py"))
    assert result.exit_code == 1
    assert "ZeroDivisionError" in result.stderr.text()


async def test_a_python_memory_hog_is_killed_and_the_machine_survives(python: LocalGuest) -> None:
    hog = b"a = []\nwhile True: a.append(bytearray(1 << 20))"
    result = await python.run(command("python3", FILE, code=hog, extension=".py", timeout=120))
    assert result.signal == "SIGKILL"
    assert await run(python, "print('works')") == ["works"]


DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 10)
        time.sleep(31315)
    os._exit(0)
print('started', flush=True)
time.sleep(31315)
"""


async def test_a_timeout_also_ends_daemons_of_python(python: LocalGuest) -> None:
    source = command("python3", FILE, code=DAEMON.encode(), extension=".py", timeout=8.0)
    result = await python.run(source)
    assert result.timed_out
    assert result.stdout.text() == "started\n"
    left = await root(python, "grep -lx python3 /proc/[0-9]*/comm | wc -l")
    assert int(left) == 0

# SPDX-License-Identifier: Apache-2.0
"""The configuration of images on real machines, and images that are badly put together.

A boot takes seconds, so each test asks one machine many questions.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path

import pytest
from tests.support.images import (
    Layer,
    busybox_layer,
    directory,
    fifo,
    file,
    symlink,
    write_layout,
)
from tests.support.programs import program
from tests.support.vm import CACHE, Lab, lines, root, sh

from waggle.cli.env.shell import ssh_argv
from waggle.domain.host import no_progress
from waggle.domain.programs import HOME
from waggle.service.local.guest import LocalGuest
from waggle.service.local.images.images import ImageService

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("leaks"),
]
Boot = Callable[[Layer, Mapping[str, object]], Coroutine[object, object, LocalGuest]]


@pytest.fixture
def boot(lab: Lab, tmp_path: Path) -> Boot:
    """Return a function that boots busybox with these files and this configuration."""

    async def made(layer: Layer, config: Mapping[str, object]) -> LocalGuest:
        layout = tmp_path / "layout"
        write_layout(layout, [[*busybox_layer(), *layer]], config=config, compression="")
        images = ImageService(
            store=tmp_path / "images", disks=CACHE / "disks", layers=CACHE / "layers", runtimes={}
        )
        lab.images.known["made"] = await images.boot_image(str(layout), no_progress)
        return await lab.guest("made")

    return made


async def shown(guest: LocalGuest, script: str) -> list[str]:
    return lines(await guest.run(sh(script)))


def console(lab: Lab) -> str:
    (log,) = lab.environments.glob("*/console.log")
    return log.read_text()


async def login(lab: Lab, guest: LocalGuest, typed: str) -> list[str]:
    """Return what a person sees who logs in as `waggle shell` does and types this."""
    (key,) = lab.environments.glob("*/ssh_key")
    ended = await asyncio.to_thread(
        subprocess.run,
        ssh_argv(program("ssh"), key.parent, str(guest.ssh_port)),
        input=typed,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


APP = [
    directory("etc", 0o555),
    file("etc/passwd", b"root:x:0:0::/root:/bin/sh\napp:x:5000:5001:App:/srv/app:/bin/ash", 0o444),
    file("etc/group", b"root:x:0:\nvideo:x:44:other,app\napp:x:5001:", 0o444),
    directory("srv", 0o555),
    directory("srv/app", 0o755, uid=5000, gid=5001),
    file("srv/app/mine", b"mine", 0o600, uid=5000, gid=5001),
    directory("opt"),
    symlink("opt/ash", "/bin/busybox"),
]


async def test_user_directory_and_shell_come_from_the_image(boot: Boot, lab: Lab) -> None:
    config = {
        "User": "app",
        "WorkingDir": "/data/work//here/",
        "Entrypoint": ["entry.sh"],
        "Cmd": ["/opt/ash"],
        "Env": ["PATH=/bin", "HOME=/root", "USER=root"],
    }
    guest = await boot(APP, config)
    assert guest.directory == "/data/work/here"
    assert await shown(guest, "id; pwd; echo $HOME $USER $LOGNAME; echo $PATH") == [
        "uid=5000(app) gid=5001(app) groups=44(video),5001(app)",
        "/data/work/here",
        "/srv/app app app",
        "/srv/app/.local/bin:/home/sandbox/.local/bin:/home/sandbox/node_modules/.bin:/bin",
    ]
    assert await shown(guest, "cat ~/mine; echo; echo x > ~/new; echo x > here; ls") == [
        "mine",
        "here",
    ]
    owners = "stat -c '%U:%G %a %n' . /data/work /srv /etc/passwd; readlink /home/sandbox"
    assert await shown(guest, owners) == [
        "app:app 755 .",
        "root:root 755 /data/work",
        "root:root 555 /srv",
        "root:root 444 /etc/passwd",
        "/srv/app",
    ]
    assert await shown(guest, "grep -c sandbox /etc/passwd /etc/group; tail -n 1 /etc/passwd") == [
        "/etc/passwd:0",
        "/etc/group:0",
        "app:x:5000:5001:App:/srv/app:/bin/ash",
    ]
    await guest.write_file("/srv/app/by-sftp", b"x", 0o600)
    await guest.write_file(f"{HOME}/by-sftp", b"x", 0o600)
    assert await shown(guest, f"cat ~/by-sftp {HOME}/by-sftp; stat -c %u:%g ~/by-sftp") == [
        "xx5000:5001"
    ]
    assert lines(await guest.run(sh("echo $HOME; pwd", env={"HOME": "/x"}, cwd="/tmp"))) == [
        "/x",
        "/tmp",
    ]
    as_root = await root(guest, "id -u; id -G; echo $HOME $USER; pwd")
    assert as_root.splitlines() == ["0", "0", "/root root", "/data/work/here"]
    assert await login(lab, guest, "echo $0; id -un; pwd; echo $HOME\n") == [
        "-ash",
        "app",
        "/data/work/here",
        "/srv/app",
    ]
    assert "waggle: " not in console(lab).replace("waggle: ready", "")


async def test_the_sandbox_user_of_an_image_is_kept_and_bad_settings_are_reported(
    boot: Boot, lab: Lab
) -> None:
    layer = [
        directory("etc"),
        file("etc/passwd", b"sandbox:x:1234:77::/nowhere:/bin/sh"),
        directory("home", 0o700),
        directory("home/sandbox", 0o500, uid=1234, gid=77),
        file("home/sandbox/mine", b"mine", 0o600, uid=1234, gid=77),
        directory("secret", 0o700),
    ]
    config = {"User": "ghost\x1b[2J:web", "WorkingDir": "/secret", "Cmd": ["zsh"]}
    guest = await boot(layer, config)
    notices = [
        "waggle: the image has no user 'ghost?[2J:web'; programs run as sandbox",
        "waggle: the image's directory /secret cannot be entered (Permission denied); "
        "programs start in /home/sandbox",
    ]
    first = await guest.run(sh("id -u; id -g; pwd; echo $HOME; cat mine; echo x > new"))
    assert first.stdout.text() == "1234\n77\n/home/sandbox\n/home/sandbox\nmine"
    assert (first.exit_code, first.stderr.text().splitlines()) == (0, notices)
    assert (await guest.run(sh("true"))).stderr.text() == "", "it is said once"
    for notice in notices:
        assert notice in console(lab)
    assert await shown(guest, "cat /etc/passwd; id -un") == [
        "sandbox:x:1234:77::/home/sandbox:/bin/sh",
        "root:x:0:0:root:/root:/bin/sh",
        "sandbox",
    ]
    await guest.write_file(f"{HOME}/by-sftp", b"x", 0o644)
    assert await shown(guest, "stat -c %u:%g by-sftp") == ["1234:77"]
    assert (await root(guest, "stat -c '%u %a' /secret")).strip() == "0 700"
    assert await login(lab, guest, "echo $0; pwd\n") == ["sh", HOME], "there is no zsh"


async def test_an_image_with_misplaced_files_boots(boot: Boot, lab: Lab) -> None:
    layer = [
        directory("conf", 0o555),
        file("conf/users", b"app:x:4242:0::/:/bin/sh\n"),
        symlink("conf/passwd", "/conf/users"),
        fifo("conf/group"),
        symlink("etc", "/conf"),
        file("tmp", b"a file"),
        directory("var"),
        directory("var/home", 0o555),
        symlink("home", "/var/home"),
        symlink("root", "/none/such"),
        symlink("run", "/var"),
        symlink("proc", "proc"),
        file("dev"),
        symlink(".waggle", "/var"),
        fifo("work"),
    ]
    guest = await boot(layer, {"User": "4242:12", "WorkingDir": "work"})
    assert guest.directory == "/work"
    result = await guest.run(sh("id -u; id -G; id -un; pwd; echo $HOME; ls -d /proc/self/status"))
    assert result.stdout.text().splitlines() == [
        *("4242", "12", "app", "/var/home/sandbox", HOME, "/proc/self/status"),
    ]
    assert "the image's directory /work cannot be entered (Not a directory)" in result.stderr.text()
    links = "readlink /etc; readlink /home"
    script = f"stat -c '%F %a' /tmp /root /run /dev; {links}; echo x > /tmp/x; cat /tmp/x"
    assert await shown(guest, script) == [
        *("directory 1777", "directory 700", "symbolic link 777", "directory 755"),
        *("/conf", "/var/home", "x"),
    ]
    assert await shown(guest, "cat /etc/passwd; cat /etc/group; cat /etc/hosts | head -n 1") == [
        "app:x:4242:0::/home/sandbox:/bin/sh",
        "root:x:0:0:root:/root:/bin/sh",
        "root:x:0:",
        "app:x:12:",
        "127.0.0.1 localhost test-1",
    ]
    await guest.write_file(f"{HOME}/by-sftp", b"x", 0o644)
    assert await shown(guest, "stat -c %u:%g /var/home/sandbox/by-sftp") == ["4242:12"]
    for path in ("/tmp", "/root", "/dev", "/proc"):
        assert f"waggle: {path} of the image is not a directory: replaced" in console(lab)


async def test_unusable_passwd_and_group_files_are_reported(boot: Boot, lab: Lab) -> None:
    lab.certificates = b"PEM\n"
    layer = [
        directory("etc"),
        file("etc/passwd", b"app:x:5000:5000::/:\n" + b"#" * (1 << 20)),
        directory("etc/group"),
        directory("etc/ssl"),
        directory("etc/ssl/certs"),
        fifo("etc/ssl/certs/ca-certificates.crt"),
        symlink("home", "/loop"),
        symlink("loop", "/home"),
    ]
    guest = await boot(layer, {"User": "app", "Cmd": ["python3"]})
    result = await guest.run(sh("id -u; id -g; pwd; cat /etc/ssl/certs/waggle-ca.pem"))
    assert result.stdout.text().splitlines() == ["1000", "1000", HOME, "PEM"]
    assert "the image has no user 'app'" in result.stderr.text()
    assert "waggle: /etc/passwd is too large; its users are not known" in console(lab)
    assert "waggle: /etc/group: Is a directory" in console(lab)
    assert "waggle: /home of the image is not a directory: replaced" in console(lab)


async def test_the_operators_certificates_join_those_of_the_image(boot: Boot, lab: Lab) -> None:
    """This includes images with a bundle of another name, and bundles that are made again."""
    lab.certificates = b"PEM\n"
    theirs = "etc/pki/tls/certs/ca-bundle.crt"
    parents = ["etc", "etc/pki", "etc/pki/tls", "etc/pki/tls/certs", "usr", "usr/local"]
    guest = await boot([*map(directory, parents), file(theirs, b"OWN\n")], {})
    script = f"cat /etc/ssl/certs/ca-certificates.crt /{theirs}; cd /usr/local/share; cat */*.crt"
    assert await shown(guest, script) == ["OWN", "PEM", "OWN", "PEM", "PEM"]

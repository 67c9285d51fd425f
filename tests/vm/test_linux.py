# SPDX-License-Identifier: Apache-2.0
"""The features that programs expect of any Linux machine, on an image that brings almost nothing.

A boot takes seconds, so all tests but the last share one machine.
"""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from tests.support.images import busybox_layer, directory, file, hard_link, symlink, write_layout
from tests.support.jobs import job
from tests.support.vm import CACHE, Lab, command, lines, root, sh

from waggle.domain.host import no_progress
from waggle.domain.image import BootImage
from waggle.domain.programs import GuestUser
from waggle.domain.programs.guest_job import Attributes, Terminal
from waggle.domain.programs.runtime import FILE, LOGIN_SHELL, PYTHON_RUNNER, SHELL
from waggle.service.local.guest import LocalGuest
from waggle.service.local.images.images import ImageService

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("leaks"),
]
OPEN_FILES = 65_536
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nubuntu:x:1000:1000::/home/ubuntu:/bin/bash\n"
LAYER = [
    *busybox_layer(),
    symlink("bin/sh", "busybox"),
    directory("etc"),
    file("etc/passwd", PASSWD),
    file("etc/group", b"root:x:0:\nubuntu:x:1000:\nvideo:x:44:ubuntu\n"),
    file("etc/hosts", b"127.0.0.1 localhost\n::1\tlocalhost\n10.0.0.7 db.internal db\n"),
    directory("home"),
    directory("home/ubuntu", 0o750, uid=1000, gid=1000),
    directory("run"),
    directory("run/service", 0o750, uid=1000, gid=1000),
    file("run/service/socket.conf", b"from the image"),
    directory("srv"),
    directory("srv/tree"),
    file("srv/tree/inner", b"1"),
    file("srv/log", b"start\n"),
    file("srv/one", b"1\n"),
    hard_link("srv/two", "srv/one"),
    directory("var"),
    directory("var/log"),
    symlink("var/log/out.log", "/dev/stdout"),
    symlink("var/log/err.log", "/proc/self/fd/2"),
]


@pytest.fixture(scope="module")
async def ordinary(shared_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> LocalGuest:
    """Boot one machine for the tests of this module."""
    directory = tmp_path_factory.mktemp("ordinary")
    write_layout(directory / "layout", [LAYER], compression="")
    images = ImageService(
        store=directory / "images", disks=CACHE / "disks", layers=CACHE / "layers", runtimes={}
    )
    made = await images.boot_image(str(directory / "layout"), no_progress)
    shared_lab.images.known["ordinary"] = made
    return await shared_lab.guest("ordinary")


async def shown(guest: LocalGuest, script: str) -> list[str]:
    return lines(await guest.run(sh(script)))


@pytest.mark.parametrize("user", GuestUser)
async def test_the_standard_streams_can_be_reopened(ordinary: LocalGuest, user: GuestUser) -> None:
    script = (
        "cat /dev/stdin; echo 1 > /dev/stdout; echo 2 >> /proc/self/fd/1; echo 3 > /dev/fd/1;"
        "echo 4 | tee /dev/stderr; echo 5 >> /var/log/out.log;"
        "echo 6 > /dev/stderr; echo 7 >> /var/log/err.log"
    )
    result = await ordinary.run(sh(script, stdin=b"0\n", user=user))
    assert lines(result) == ["0", "1", "2", "3", "4", "5"]
    assert result.stderr.text() == "4\n6\n7\n"
    inherited = 'su ubuntu -s /bin/sh -c "echo 8 > /dev/stdout; echo 9 > /dev/stderr"'
    result = await ordinary.run(sh(inherited, user=GuestUser.ROOT))
    assert (lines(result), result.stderr.text()) == (["8"], "9\n")


async def test_a_reopened_stream_loses_nothing(ordinary: LocalGuest) -> None:
    script = "cat /dev/stdin > /dev/stdout; dd if=/dev/zero bs=1M count=4 2>&- | cat > /dev/fd/2"
    data = bytes(range(256)) * 400
    result = await ordinary.run(sh(script, stdin=data))
    assert result.stdout.head + result.stdout.tail == data
    assert result.stderr.total == 4 << 20


async def test_a_line_runs_in_the_shell_of_the_image(ordinary: LocalGuest) -> None:
    ran = await ordinary.run(command(SHELL, "-c", "echo $0; readlink /proc/$$/exe"))
    assert lines(ran) == ["sh", "/bin/busybox"]
    await root(ordinary, "mv /bin/sh /bin/other")
    ran = await ordinary.run(command(SHELL, "-c", "readlink /proc/$$/exe"))
    assert lines(ran) == ["/.waggle/bin/busybox"], "the kit's, where the image has none"
    await root(ordinary, "mv /bin/other /bin/sh; ln -s busybox /bin/bash")
    ran = await ordinary.run(command(SHELL, "-c", "true"))
    assert "applet not found" in ran.stderr.text(), "bash comes first"
    await root(ordinary, "rm /bin/bash")


async def test_a_terminal_runs_the_login_shell_of_the_user(ordinary: LocalGuest) -> None:
    login = command(LOGIN_SHELL, "-c", "echo $0")
    assert lines(await ordinary.run(login)) == ["sh"], "as any line, where there is no bash"
    await root(
        ordinary,
        "cp /etc/passwd /tmp/users; printf '#!/bin/sh\\necho mine $1\\n' > /bin/own;"
        "touch /bin/nologin; chmod 755 /bin/own /bin/nologin;"
        "sed -i '/^ubuntu/s,/bin/bash,/bin/own,' /etc/passwd",
    )
    assert lines(await ordinary.run(login)) == ["mine -c"]
    assert lines(await ordinary.run(replace(login, user=GuestUser.ROOT))) == ["/bin/sh"]
    for made in (
        "sed -i s,/bin/own,/bin/nologin, /etc/passwd",
        "sed -i s,/bin/nologin,/none, /etc/passwd",
        "sed -i s,/none,own, /etc/passwd",
        "rm /etc/passwd; mkfifo /etc/passwd",
    ):
        await root(ordinary, made)
        assert lines(await ordinary.run(login)) == ["sh"], made
    await root(ordinary, "rm /etc/passwd; cp /tmp/users /etc/passwd; chmod 644 /etc/passwd")


@pytest.mark.parametrize("text", [b"one\ntwo\n", b"one\ntwo", b"long line\n" * 20_000])
async def test_stdin_is_typed_into_a_terminal(ordinary: LocalGuest, text: bytes) -> None:
    """Its end is one there, too; more than a terminal holds is typed while the program reads."""
    typed = sh("tty >/dev/null && stty -echo && echo go; wc -lc; echo over", stdin=text)
    result = await ordinary.attend(job(typed, Attributes(terminal=Terminal())))
    said = result.stdout.text().replace("\r", "").split("go\n")[1].split()
    assert said == [str(text.count(b"\n")), str(len(text)), "over"]


async def test_resource_limits_match_those_of_other_machines(ordinary: LocalGuest) -> None:
    limits = "ulimit -n; ulimit -Hn; ulimit -n $(ulimit -Hn) && ulimit -n"
    soft, hard, raised = map(int, await shown(ordinary, limits))
    assert soft >= OPEN_FILES
    assert raised == hard >= OPEN_FILES
    settings = {
        "fs/file-max": 1 << 20,
        "fs/inotify/max_user_watches": 65_536,
        "fs/inotify/max_user_instances": 1_024,
        "kernel/pid_max": 32_768,
        "vm/max_map_count": 262_144,
    }
    values = await shown(ordinary, f"cd /proc/sys; cat {' '.join(settings)}")
    assert all(int(has) >= least for has, least in zip(values, settings.values(), strict=True))
    assert await shown(ordinary, "cd /proc/sys/net/ipv4; cat ip_unprivileged_port_start") == ["0"]


async def test_every_port_is_free_for_the_environment(ordinary: LocalGuest) -> None:
    """The kit's own listeners have an address of their own, which stands for no name."""
    listening = "netstat -ltn | grep LISTEN | grep -vc '198.18.0.2:'; ls /sys/class/net"
    assert await shown(ordinary, listening) == ["0", "lo"]
    script = (
        "for port in 22 80; do nc -l -p $port < /dev/null > /tmp/heard & sleep 1;"
        "echo $port | nc 127.0.0.1 $port; wait; cat /tmp/heard; done"
    )
    assert await shown(ordinary, script) == ["22", "80"]


async def test_the_images_files_in_run_and_hosts_are_kept(ordinary: LocalGuest) -> None:
    assert await shown(ordinary, "cat /run/service/socket.conf; echo; cat /etc/hosts") == [
        "from the image",
        "127.0.0.1 localhost test-1",
        "::1 localhost ip6-localhost ip6-loopback",
        "10.0.0.7 db.internal db",
    ]
    owners = "stat -c '%U %a' /run/service /run/lock /var/tmp /run/user/1000; readlink /var/run"
    expected = ["ubuntu 750", "root 1777", "root 1777", "ubuntu 700", "/run"]
    assert await shown(ordinary, owners) == expected
    assert await shown(ordinary, "echo $XDG_RUNTIME_DIR; umask; date +%Z") == [
        *("/run/user/1000", "0022", "UTC"),
    ]
    zone = sh("date +%Z", env={"TZ": "EST5"})
    assert lines(await ordinary.run(zone)) == ["EST"]


async def test_user_1000_of_the_image_keeps_its_name_and_home(ordinary: LocalGuest) -> None:
    assert await shown(
        ordinary, "id; echo $USER $LOGNAME $HOME ~; pwd; readlink /home/sandbox"
    ) == [
        "uid=1000(ubuntu) gid=1000(ubuntu) groups=44(video),1000(ubuntu)",
        "ubuntu ubuntu /home/ubuntu /home/ubuntu",
        "/home/ubuntu",
        "/home/ubuntu",
    ]
    assert await shown(ordinary, "cat /etc/passwd; grep name /etc/gitconfig") == [
        *PASSWD.decode().splitlines(),
        "\tname = ubuntu",
    ]
    await ordinary.write_file("/home/sandbox/mine", b"x", 0o644)
    listing = await ordinary.list_files("/home/sandbox")
    assert "mine" in [entry.name for entry in listing.entries]
    assert await shown(ordinary, "cat ~/mine; rm ~/mine") == ["x"]


async def test_the_image_and_written_files_are_one_file_system(ordinary: LocalGuest) -> None:
    moved = await root(
        ordinary,
        "cd /srv; stat -c %i tree; mv tree moved; stat -c %i moved; cat moved/inner",
    )
    before, after, content = moved.split()
    assert (before, content) == (after, "1"), "renamed, not copied"
    await root(ordinary, "chmod 666 /srv/log; echo 2 >> /srv/one")
    assert await shown(ordinary, "cat /srv/two; stat -c %h /srv/one") == ["1", "2", "2"]
    follow = "exec 3< /srv/log; cat <&3; echo added >> /srv/log; cat <&3"
    assert await shown(ordinary, follow) == ["start", "added"]
    stores = "cd /var/lib; stat -f -c %T containers docker containerd"
    assert (await root(ordinary, stores)).split() == ["ext2/ext3"] * 3


async def test_code_leaves_no_file_in_its_working_directory(ordinary: LocalGuest) -> None:
    await root(ordinary, "mkdir /srv/fixed; mount -t tmpfs -o ro none /srv/fixed")
    for cwd in ("/home/ubuntu", "/srv/fixed", "/etc"):
        code = command(SHELL, FILE, code=b"pwd; ls -A | grep -c '[.]waggle'", apart=True, cwd=cwd)
        ran = await ordinary.run(code)
        assert ran.stdout.text() == f"{cwd}\n0\n", ran.stderr.text()
    known = command(SHELL, FILE, code=b"stat -c '%U %a' $0", extension=".sh", apart=True)
    assert lines(await ordinary.run(known)) == ["ubuntu 600"]
    assert await root(ordinary, "ls -A /run/code | wc -l") == "0\n"


async def test_a_script_with_windows_line_ends_is_diagnosed(ordinary: LocalGuest) -> None:
    script = base64.b64encode(b"#!/bin/sh\r\necho hi\r\n").decode()
    written = f"echo {script} | base64 -d > s.sh; chmod +x s.sh; exec 2>&-; ./s.sh"
    program = sh(written)
    diagnosis = await ordinary.diagnose(program, await ordinary.run(program))
    assert diagnosis
    assert (diagnosis.code, "s.sh has Windows line ends" in diagnosis.cause) == (
        "windows_line_ends",
        True,
    )


async def test_container_engines_find_what_they_need(ordinary: LocalGuest) -> None:
    """They need their own part of the cgroup hierarchy, within limits; devices; shared mounts."""
    script = (
        "cut -d: -f3 /proc/self/cgroup | tr -d '0-9a-f\\n'; echo; cat /sys/fs/cgroup/memory.max;"
        "stat -c %a /dev/fuse /dev/net/tun; grep -c ' / / .* shared:' /proc/self/mountinfo;"
        "ls -d /dev/mqueue; unshare -Ur true && echo userns; cat /etc/docker/daemon.json"
    )
    path, limit, *rest = await shown(ordinary, script)
    assert path == "/----"
    assert 64 << 20 < int(limit) < 192 << 20
    docker = '{"iptables": false, "ip6tables": false}'
    assert rest == ["666", "666", "1", "/dev/mqueue", "userns", docker]


CODE = b"""\
from __future__ import annotations
import multiprocessing, os, own, resource, socket
def double(x): return 2 * x
if __name__ == '__main__':
    print(own.value, __file__, [name for name in os.listdir('.') if 'waggle' in name])
    files = [os.open('/dev/null', 0) for _ in range(5000)]
    print(len(files), resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 65536)
    socket.create_server(('::1', 443), family=socket.AF_INET6)
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        print(pool.map(double, [21]))
    1 / 0
"""


async def test_python_code_outside_the_working_directory_runs_as_usual(
    lab: Lab, python_image: BootImage
) -> None:
    lab.images.known["python"] = python_image
    guest = await lab.guest("python", memory=512, disk=256)
    await guest.write_file("/home/sandbox/own.py", b"value = 42", 0o644)
    code = command("python3", PYTHON_RUNNER, FILE, code=CODE, extension=".py", apart=True)
    ran = await guest.run(code)
    assert ran.stdout.text().splitlines() == ["42 /home/sandbox/main.py []", "5000 True", "[42]"]
    assert 'main.py", line 12, in <module>\n    1 / 0' in ran.stderr.text()

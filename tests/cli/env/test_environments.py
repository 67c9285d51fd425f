# SPDX-License-Identifier: Apache-2.0
"""`waggle env` and `waggle shell`, with a real server, without one, and with another program."""

from __future__ import annotations

import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from tests.support.own_process import typed
from tests.support.waggle_client import connected, create
from tests.support.waggle_process import Waggle, beside, environ, running, small

from waggle.cli.env.environments import expose
from waggle.cli.env.shell import ssh_argv
from waggle.domain.errors import InvalidArgument

NO_PARTS = {"image_cache_dir": "/nonexistent"}


@pytest.mark.parametrize(
    "words",
    [
        ("env", "ls"),
        ("env", "rm", "x"),
        ("env", "restart", "x"),
        ("env", "network", "x"),
        ("shell", "x"),
        ("port", "x", "80"),
        ("exec", "x", "id"),
    ],
)
def test_a_missing_server_is_reported(tmp_path: Path, words: tuple[str, ...]) -> None:
    settings = {**NO_PARTS, "listen_addr": "127.0.0.1:1"}
    ended = typed(*words, data=tmp_path, settings=settings)
    assert ended.returncode == 1
    assert ended.stderr == (
        "waggle: No server answers at http://127.0.0.1:1/mcp.\n"
        "  Start it with 'waggle serve', or set WAGGLE_LISTEN_ADDR to its address.\n"
    )


def hang_up(connection: socket.socket) -> None:
    connection.recv(10)


def refuse(connection: socket.socket) -> None:
    connection.recv(100_000)
    connection.sendall(b"HTTP/1.1 501 Nope\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def babble(connection: socket.socket) -> None:
    connection.recv(100_000)
    connection.sendall(b"220 mail.test ESMTP\r\n")


@contextmanager
def something_else(behave: Callable[[socket.socket], None]) -> Generator[int]:
    """Run a server that is not waggle."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return  # closed: the test is over
                with connection:
                    behave(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("behave", [hang_up, refuse, babble])
def test_another_program_is_reported(
    tmp_path: Path, behave: Callable[[socket.socket], None]
) -> None:
    with something_else(behave) as port:
        settings = {**NO_PARTS, "listen_addr": f"127.0.0.1:{port}"}
        ended = typed("env", "ls", data=tmp_path, settings=settings)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    message, hint = ended.stderr.splitlines()
    assert message.startswith(f"waggle: The program at http://127.0.0.1:{port}/mcp is no waggle")
    assert not message.endswith("..")
    assert "WAGGLE_LISTEN_ADDR" in hint


def test_the_ssh_command_knows_only_this_environment() -> None:
    argv = ssh_argv("/usr/bin/ssh", Path("/data/environments/x"), "10007")
    assert argv[:3] == ["/usr/bin/ssh", "-F", "/dev/null"]
    assert argv[-3:] == ["10007", "-t", "root@127.0.0.1"]
    options = [argv[n + 1] for n, word in enumerate(argv) if word == "-o"]
    assert {
        "StrictHostKeyChecking=yes",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "IdentityFile=/data/environments/x/ssh_key",
        "UserKnownHostsFile=/data/environments/x/known_hosts",
        "GlobalKnownHostsFile=/dev/null",
    } <= set(options)


@pytest.mark.vm
@pytest.mark.timeout(300)
@pytest.mark.anyio
async def test_list_shell_port_and_remove(tmp_path: Path) -> None:
    with running(tmp_path, small(tmp_path)) as server:
        empty = await anyio.to_thread.run_sync(beside, server, "env", "ls")
        assert (empty.returncode, empty.stdout) == (
            0,
            "No environments. 'waggle env new' makes one.\n",
        )
        async with connected(server) as client:
            one = await create(client, "shell", name="box-one")
            two = await create(client, "shell", name="box-two")
        await anyio.to_thread.run_sync(check_commands, server, one, two)


def check_commands(server: Waggle, one: str, two: str) -> None:
    rows = json.loads(beside(server, "env", "ls", "--json").stdout)
    assert [(row["environment_id"], row["name"], row["status"]) for row in rows] == [
        (one, "box-one", "running"),
        (two, "box-two", "running"),
    ]
    table = beside(server, "env", "ls").stdout
    assert one in table
    assert "box-two" in table

    said = in_a_terminal(server, "box-one", "busybox id -un; busybox hostname; exit 7\n")
    assert re.search(r"^sandbox\s+box-one\s", said, re.M), said
    assert "status 7" in said

    shown = beside(server, "env", "network", "box-one")
    assert (shown.returncode, shown.stdout) == (0, "none\n")
    refused = beside(server, "env", "network", "box-one", "public")
    assert refused.returncode == 1
    assert "cannot get one any more" in refused.stderr
    assert "'waggle env new --network'" in refused.stderr

    opened = beside(server, "port", "box-one", "8000")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\n", opened.stdout), opened
    assert opened.stderr.splitlines() == [
        "Nothing listens on port 8000 yet: waiting 10 s for it ...",
        "Nothing listens on port 8000 yet; the URL works as soon as something does.",
    ]

    broken = beside(server, "env", "restart", "box-one", "--json")
    restarted = json.loads(broken.stdout)
    assert (restarted["environment_id"], restarted["status"]) == (one, "running")
    assert restarted["seconds"] > 0
    broken = beside(server, "env", "restart", "box-one", "--force")
    assert (broken.returncode, broken.stdout) == (0, f"{one}\n")

    wrong = beside(server, "env", "rm", "box-one", "--grace", "31s")
    assert wrong.returncode == 2
    assert "no duration from 0s to 30s" in wrong.stderr
    unknown = beside(server, "env", "rm", "box")
    assert unknown.returncode == 1
    assert "There is no environment 'box'" in unknown.stderr
    ambiguous = beside(server, "env", "rm", "")
    assert ambiguous.returncode == 2
    assert "names 2 environments" in ambiguous.stderr

    removed = beside(server, "env", "rm", "nobody", "box-one")
    assert (removed.returncode, removed.stdout) == (1, f"{one}\n")
    assert "There is no environment 'nobody'" in removed.stderr
    removed = beside(server, "env", "rm", two[:13], "--grace", "2s")
    assert (removed.returncode, removed.stdout) == (0, f"{two}\n")
    assert server.remains() == {}


def in_a_terminal(server: Waggle, name: str, keys: str) -> str:
    """Run `waggle shell` on a pseudo-terminal; return what it shows, and then its status."""
    address = {"listen_addr": server.url.removeprefix("http://")}
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "waggle", "shell", name],
        env=environ(server.data, {**server.settings, **address}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    try:
        while b"$ " not in shown:  # its prompt
            shown += os.read(ours, 4096)
        os.write(ours, keys.encode())
        while True:
            shown += os.read(ours, 4096)
    except OSError:
        pass  # the other side has closed
    finally:
        os.close(ours)
    return f"{shown.decode()}\nstatus {process.wait(30)}"


@pytest.mark.parametrize("expires", ["30s", "169h", "8d", "0m", "soon", "", "-5m"])
def test_a_link_lasts_a_minute_to_a_week(expires: str) -> None:
    with pytest.raises(InvalidArgument, match="is no duration from 1m to 7d"):
        expose("box", 8000, expires=expires)

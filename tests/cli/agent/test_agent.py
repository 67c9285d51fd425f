# SPDX-License-Identifier: Apache-2.0
"""`waggle agent`: every method over a socket, with its results for people and for scripts."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from typing import Any, get_args

import pytest
from tests.cli.agent.ended import Run
from tests.support.agent_peer import GOOD, Peer, Request, error, good, greeted, result

from waggle.cli import main
from waggle.cli.agent.asking import ABOUT
from waggle.cli.options import AgentMethod
from waggle.infra.guest.protocol import METHODS

WORDS: dict[str, list[str]] = {
    "exec_command": ['argv=["/bin/x"]', "wait=false"],
    "get_process": ["process=3"],
    "kill_process": ["process=3"],
    "file_read": ["path=/a", "length=1"],
    "file_write": ["path=/a", "data=x", "offset=5", "mode=0600"],
    "list_directory": ["path=/a", "limit=5"],
    "set_time": ["time=7"],
    "reboot": ["manner=forced"],
    "freeze_filesystems": ['mount_points=["/"]'],
}
SHOWN: dict[str, list[str]] = {
    "ping": ["'waggle-agent' answered in"],
    "get_agent_info": ["protocol: 1.0", "policy.read.allow: /tmp", "policy.limits.requests: 8",
                       "policy.limits.read_bytes: 256.0 KiB", "/usr/bin/df"],
    "get_system_info": ["os.pretty_name: Debian 13", "memory_bytes: 512.0 MiB", "uptime: 5",
                        "time: 2023-11-14T22:13:20Z"],
    "get_network_info": ["truncated: no", "127.0.0.1/8, ::1/128"],
    "get_disk_usage": ["mount point", "1.0 GiB", "/dev/vda"],
    "get_metrics": ["load: 0.5, 0.25, 0", "pressure.cpu.some: 0.1", "pressure.memory: -", "vda"],
    "get_users": ["root", "ada", "pts/0"],
    "exec_command": ["ok\n"],
    "get_process": ["status: exited", "exit_code: 7", "stdout:\n  ok"],
    "kill_process": ["status: killed", "signal: 9"],
    "file_read": ["\0"],
    "file_write": ["written: 1 B"],
    "list_directory": ["file", "0644", "2001-09-09T01:46:40Z", "symlink"],
    "set_time": ["time: 2001-09-09T01:46:40Z"],
    "shutdown": ["done"],
    "reboot": ["done"],
    "sync_filesystems": ["done"],
    "freeze_filesystems": ["count: 2"],
    "thaw_filesystems": ["count: 2"],
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_every_method_for_people(method: str, peer: Peer, ask: Run) -> None:
    ended = ask(method, *WORDS.get(method, []))
    assert ended.code == (7 if method == "exec_command" else 0), ended.err
    for text in SHOWN[method]:
        assert text in ended.text
    assert peer.seen[-1]["method"] == method


@pytest.mark.parametrize("method", METHODS)
def test_every_method_for_scripts(method: str, peer: Peer, ask: Run) -> None:
    ended = ask(method, *WORDS.get(method, []), "--json")
    assert (ended.code, ended.err) == (0, "")
    expected = METHODS[method].result.model_validate(GOOD[method])
    assert METHODS[method].result.model_validate(ended.result) == expected


def test_parameters_get_their_types(peer: Peer, ask: Run) -> None:
    ask("exec_command", 'argv=["/bin/x", "a=b"]', 'environment={"A": "1"}', "user=nobody",
        "input=tëxt", "timeout=5", "wait=true")  # fmt: skip
    assert peer.seen[-1]["params"] == {
        "argv": ["/bin/x", "a=b"], "environment": {"A": "1"}, "user": "nobody",
        "input": "dMOreHQ=", "timeout": 5, "wait": True,
    }  # fmt: skip


def test_a_mode_is_octal_as_everywhere(peer: Peer, ask: Run) -> None:
    for typed in ("0640", "640", "0o640"):
        assert ask("file_write", "path=/a", "data=x", f"mode={typed}").code == 0
        assert peer.seen[-1]["params"]["mode"] == 0o640


def test_fractions_have_as_many_digits_as_people_read(peer: Peer, ask: Run) -> None:
    metrics = {**GOOD["get_metrics"], "uptime": 70022.20453, "load": [0.8134765625, 1, 2]}
    peer.reply = greeted(lambda request: result(request, metrics))
    text = ask("get_metrics").text
    assert "uptime: 70022.2\n" in text
    assert "load: 0.81, 1, 2\n" in text


def test_the_methods_are_listed(waggle: Run) -> None:
    for words in ((), ("--list",), ("ping", "--list")):
        ended = waggle("agent", *words)
        assert ended.code == 0
        assert [line.split()[0] for line in ended.text.splitlines()] == [*METHODS]
    listed = waggle("agent", "--list", "--json").result
    assert listed[16]["method"] == "sync_filesystems"
    assert listed[10]["parameters"] == ["path=...", "[offset=...]", "[length=...]"]


def test_completion_and_list_know_all_methods() -> None:
    either, *_ = get_args(AgentMethod)
    assert get_args(get_args(either)[0]) == tuple(METHODS)
    assert [*ABOUT] == [*METHODS]
    script = main.app.generate_completion(shell="bash")  # noqa: S604 (which shell)
    for word in ("agent", "--socket", "freeze_filesystems"):
        assert re.search(rf"(?<![\w-]){word}(?![\w-])", script), word


PROCESS: dict[str, Any] = GOOD["exec_command"]


@pytest.mark.parametrize(
    "process,code,said",
    [
        ({}, 7, ""),
        ({"exit_code": 0}, 0, ""),
        ({"status": "signaled", "exit_code": None, "signal": 9}, 137, ""),
        ({"status": "timed_out", "exit_code": None, "signal": 9}, 124, "killed after 0.2 s"),
        ({"status": "running", "exit_code": None}, 0, ""),
        ({"stdout_bytes": 5_000}, 7, "5,000 bytes of output, of which 3 were kept"),
    ],
)
def test_a_program_gives_its_output_and_its_exit_code(
    process: dict[str, Any], code: int, said: str, peer: Peer, ask: Run
) -> None:
    peer.reply = greeted(lambda request: result(request, {**PROCESS, **process}))
    ended = ask("exec_command", 'argv=["/bin/x"]')
    assert ended.code == code
    assert said in ended.err
    if process.get("status") != "running":
        assert ended.out == b"ok\n"
        assert ended.err.startswith("!")
    assert ask("exec_command", 'argv=["/bin/x"]', "--json").code == 0


def test_output_is_copied_byte_for_byte(peer: Peer, ask: Run) -> None:
    raw = {**PROCESS, "stdout": "AP8bWzJK", "stdout_bytes": 6, "stderr": "", "stderr_bytes": 0}
    peer.reply = greeted(lambda request: result(request, raw))
    assert ask("exec_command", 'argv=["/bin/x"]').out == b"\0\xff\x1b[2J"


def test_what_a_guest_says_is_cleaned(peer: Peer, ask: Run) -> None:
    os_of = {"id": "\x1b[2J", "name": "a\nb", "version": "[bold]", "pretty_name": "\u202e"}

    def reply(request: Request) -> bytes:
        if request["method"] == "get_users":
            user = {"uid": 0, "name": "\x1b[2J[red]", "processes": 5}
            return result(request, {"users": [user], "sessions": [], "truncated": False})
        return result(request, {**GOOD["get_system_info"], "os": os_of})

    peer.reply = greeted(reply)
    for method in ("get_system_info", "get_users"):
        text = ask(method).text
        assert all(c.isprintable() for line in text.splitlines() for c in line)
        assert "[bold]" in text or "[red]" in text


def test_a_refusal_says_what_decides(peer: Peer, ask: Run) -> None:
    data = {"policy": "read.deny"}
    peer.reply = greeted(lambda request: error(request, -32000, "not allowed", data=data))
    ended = ask("file_read", "path=/a")
    assert (ended.code, ended.out) == (1, b"")
    assert ended.err == (
        "waggle: The guest agent refused file_read: not allowed.\n"
        "  The machine's policy decides: /etc/waggle-agent/config.json there (policy: read.deny).\n"
    )


@pytest.mark.parametrize(
    "code,data,hint",
    [(-32004, {}, "Try again."), (-32006, {"errno": "EACCES"}, "says failed (errno: EACCES)"),
     (-32603, {}, ""), (7, {"x": 1}, "says unknown (x: 1)")],
)  # fmt: skip
def test_other_refusals_have_a_next_step(
    code: int, data: dict[str, Any], hint: str, peer: Peer, ask: Run
) -> None:
    peer.reply = greeted(lambda r: error(r, code, "no", data=data))
    ended = ask("ping")
    assert ended.code == 1
    assert hint in ended.err


def test_another_version_is_named(peer: Peer, ask: Run) -> None:
    def reply(request: Request) -> bytes:
        return error(request, -32005, "no such version", data={"supported": ["2.0"]})

    peer.reply = reply
    assert "The agent speaks 2.0." in ask("ping").err


def test_the_wait_for_an_answer_is_bounded(peer: Peer, ask: Run) -> None:
    peer.reply = greeted(lambda _: b"")
    ended = ask("ping", "--timeout", "1s")
    assert ended.code == 1
    assert "no answer within 1 s" in ended.err
    assert "--timeout 60s" in ended.err


def test_ctrl_c_ends_the_wait(peer: Peer, ask: Run) -> None:
    def reply(request: Request) -> bytes:
        threading.Timer(0, os.kill, (os.getpid(), signal.SIGINT)).start()
        return b""

    peer.reply = greeted(reply)
    for words, left in (
        (("exec_command", 'argv=["/bin/x"]'), "the program goes on in the machine"),
        (("file_write", "path=/a", "data=x"), "what was written by then stays"),
        (("ping",), ""),
    ):
        ended = ask(*words)
        assert (ended.code, ended.out) == (130, b"")
        assert left in ended.err if left else ended.err == ""


def test_a_directory_is_listed_whole(peer: Peer, ask: Run) -> None:
    (entry, _) = GOOD["list_directory"]["entries"]

    def reply(request: Request) -> bytes:
        start = request["params"]["offset"]
        page = [{**entry, "name": f"f{start + number}"} for number in range(10)]
        return result(request, {"entries": page, "more": start < 20})

    peer.reply = greeted(reply)
    listed = ask("list_directory", "path=/a", "--json").result
    assert [one["name"] for one in listed["entries"]] == [f"f{number}" for number in range(30)]
    assert len(json.dumps(listed)) > 1_000
    assert "f29" in ask("list_directory", "path=/a").text
    assert peer.reply is not good

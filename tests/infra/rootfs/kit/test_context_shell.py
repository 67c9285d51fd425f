# SPDX-License-Identifier: Apache-2.0
"""The driver of shell contexts (kit/guest/context.shell) with this host's shells."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.driver_rig import Driver
from tests.support.programs import program

from waggle.infra.host.requirements import find_program
from waggle.infra.rootfs.kit import GUEST_SOURCES

SHELLS = [["bash"], ["dash"], ["bash", "--posix"]]
if find_program("busybox"):
    SHELLS.append(["busybox", "ash"])


@pytest.fixture(params=SHELLS, ids=" ".join)
def words(request: pytest.FixtureRequest) -> list[str]:
    found: list[str] = request.param
    return found


@pytest.fixture
def shell(words: list[str], tmp_path: Path) -> Iterator[Driver]:
    script = tmp_path / "context.sh"
    shutil.copy(GUEST_SOURCES / "context.shell", script)
    with Driver([program(words[0]), *words[1:], script], tmp_path / "driver", ".sh") as driver:
        yield driver


def test_state_stays(shell: Driver) -> None:
    code = "x=1; f() { echo f$x; }; alias hi='echo aliased'; cd /; set -- p q; set -f; umask 027\n"
    assert shell.run(code).status == 0
    assert shell.run("f; hi; pwd; echo $# $1 /*; umask").out == "f1\naliased\n/\n2 p /*\n0027\n"
    shell.run("set +f; exec 5>five; x=2", cwd=shell.cwd)
    assert shell.run("echo to five >&5; cat five; f").out == "to five\nf2\n"
    value = 'a\'b\n$x `id` \\ "c"=d '
    print_it = 'printf %s "$V"; sh -c \'printf %s "$V"\''
    assert shell.run(print_it, env={"V": value, "W": ""}).out == value * 2
    assert shell.run(print_it).out == value * 2
    elsewhere = shell.place / "else where"
    elsewhere.mkdir()
    assert shell.run("pwd", cwd=elsewhere).out == f"{elsewhere}\n"
    ended = shell.run("echo not", cwd=shell.place / "missing")
    assert (ended.status, ended.out) == (1, "")
    assert shell.run("pwd").out == f"{elsewhere}\n"


def test_the_status_is_that_of_the_last_command(shell: Driver) -> None:
    for code, status in (("false", 1), ("(exit 77)", 77), ("return 5", 5), ("true", 0), ("", 0)):
        assert shell.run(code).status == status, code
    ended = shell.run("no-such-program")
    assert (ended.status, "not found" in ended.err) == (127, True)
    assert shell.run("echo $?").out == "127\n"


def test_errors_of_syntax_and_expansion_fail_the_cell_alone(shell: Driver) -> None:
    ended = shell.run("x=kept; echo a\nif then\necho not")
    assert (ended.status, ended.out) == (2, "a\n")
    assert "main.sh: line 2: " in ended.err or ": 2: " in ended.err
    for code in ("echo 'open", "echo $((1 / 0)); echo not", "f() {", "case x in", ")"):
        ended = shell.run(code)
        assert ended.status, code
        assert ended.out == "", code
        assert ended.err, code
        assert shell.run("echo $x").out == "kept\n", code
    name = "n" * 10_000
    assert name in shell.run(name).err


def test_exit_ends_the_driver_without_an_answer(shell: Driver) -> None:
    ended = shell.run("f() { echo last; exit 3; }; (exit 4); f; echo not")
    assert (ended.status, ended.out, ended.err) == (None, "last\n", "")
    assert shell.exit_status() == 3


def test_the_end_of_requests_ends_the_driver(shell: Driver) -> None:
    shell.run("false; set -e")
    os.close(shell.requests)
    assert shell.exit_status() == 0


def test_set_e_ends_a_cell_alone_in_bash(words: list[str], shell: Driver) -> None:
    if words[0] != "bash":
        pytest.skip("a POSIX shell ends")
    nested = "set -e; f() { false; echo not; }; g() { f; echo not; }; while :; do g; done; echo not"
    failing = [nested, "(exit 1); echo not", "( false; echo not ); echo not", "false\necho not"]
    failing += [
        "set -o pipefail; false | true; echo not",
        "x=$(false); echo not",
        "eval false; echo not",
    ]
    for code in failing:
        ended = shell.run(code)
        assert (ended.status, ended.out) == (1, ""), code
    fine = "if false; then :; fi; ! true; false || echo or; while false; do :; done"
    assert shell.run(fine + "; case $- in *e*) echo e ;; esac").out == "or\ne\n"
    assert shell.run("false && true").status == 1
    assert shell.run("set +e; false; echo on").out == "on\n"


def test_a_shell_that_an_option_ends_says_so(words: list[str], shell: Driver) -> None:
    cause = "set -u; echo $nothing_of_this_name" if words[0] == "bash" else "set -e; false"
    ended = shell.run(f"echo a; {cause}; echo not")
    assert (ended.status, ended.out) == (None, "a\n")
    assert "waggle: set -" in ended.err
    assert "has ended the shell" in ended.err
    assert shell.exit_status() in {1, 127}


def test_set_u_fails_the_cell_alone_in_a_posix_shell(words: list[str], shell: Driver) -> None:
    if words[0] == "bash":
        pytest.skip("bash ends")
    assert shell.run("set -u; echo $nothing_of_this_name; echo not").status == 2
    assert shell.run("echo ${x:?must be}; echo not").status == 2
    assert shell.run("echo alive").out == "alive\n"


RUNNING = [
    "echo go; sleep 100; echo not",
    "echo go; while :; do :; done; echo not",
    "g() { while :; do sleep 0.1; done; }; h() { g; echo not; }; echo go; h; echo not",
    "echo go; read x; echo not",
    "echo go; (sleep 100; echo not); echo not",
    "echo go; x=$(sleep 100); echo not",
    "echo go; for i in 1 2; do sleep 100; done | cat; echo not",
    "set -u; echo go; sleep 100\necho not; set +u",
]


def test_an_interrupt_ends_the_cell_and_not_the_shell(shell: Driver) -> None:
    shell.run("kept=kept")
    for code in RUNNING:
        cell = shell.ask(code, stdin=None)
        cell.printed("go")
        ended = shell.interrupted(cell)
        os.close(cell.stdin)
        assert (ended.status, ended.out) == (130, "go\n"), code
        assert shell.run("echo $kept $?").out == "kept 130\n", code
    shell.interrupt()
    assert shell.run("echo on").out == "on\n"


def test_an_interrupt_spares_programs_in_the_background(shell: Driver) -> None:
    shell.run("sleep 100 >/dev/null 2>&1 & left=$!")
    cell = shell.ask("echo go; sleep 100; echo not")
    cell.printed("go")
    assert shell.interrupted(cell).status == 130
    assert shell.run("kill $left && echo it lived").out == "it lived\n"


def test_programs_left_running_print_where_they_began(shell: Driver) -> None:
    os.mkfifo(shell.cwd / "pipe")
    cell = shell.ask("(read x <pipe; echo left) & echo first")
    assert shell.line() == f"{cell.id} 0"
    assert shell.run("echo go >pipe; wait; echo second").out == "second\n"
    assert cell.ended(0).out == "first\nleft\n"


def test_the_drivers_descriptors_are_not_those_of_programs(shell: Driver) -> None:
    ended = shell.run("ls -l /proc/self/fd", stdin=b"")
    assert "requests" not in ended.out
    assert "answers" not in ended.out
    assert shell.run("cat", stdin=b"typed").out == "typed"


def test_what_is_closed_by_a_cell_is_there_in_the_next(shell: Driver) -> None:
    shell.run("exec 0<&- 1>&- 2>&- 3>&- 4>&- 7<&- 8>&-; echo lost")
    assert shell.run("echo out; echo err >&2").err == "err\n"
    shell.run("exec >/dev/null 2>&1")
    assert shell.run("echo out").out == "out\n"


def test_a_flood_to_a_slow_reader_is_whole_and_answered(shell: Driver) -> None:
    cell = shell.ask("head -c 100000000 /dev/zero | tr '\\0' x", is_read=False)
    cell.may_read.wait(0.2)
    cell.may_read.set()
    ended = shell.wait(cell)
    assert (ended.status, len(ended.out)) == (0, 100_000_000)
    assert shell.run("yes | head -n 1").out == "y\n"


def test_a_reader_that_is_gone_ends_nothing(shell: Driver) -> None:
    cell = shell.ask("read x; echo a; echo b >&2; true", stdin=None, is_read=False)
    cell.hang_up()
    os.write(cell.stdin, b"go\n")
    os.close(cell.stdin)
    assert shell.wait(cell).status == 0
    assert shell.run("echo on").out == "on\n"


def test_garbage_is_reported_and_ignored(shell: Driver) -> None:
    lines = (
        "garbage\n",
        "\n",
        "1 2 3\n",
        "../.. 1 /\n",
        "a $(id) /tmp\n",
        "a 1 /tmp x\n",
        "y" * 40_000,
    )
    for line in (*lines, "\n"):
        shell.send(line)
    assert shell.run("echo 1").out == "1\n"
    assert shell.log.read_text().count("waggle: not a request: ") == 7
    missing = "0" * 36
    shell.send(f"{missing} 999999999 {shell.place}/nothing\n")
    assert shell.line() == f"{missing} 1"
    assert shell.run("echo 2").out == "2\n"

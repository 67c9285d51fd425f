# SPDX-License-Identifier: Apache-2.0
"""The server as its .deb installs it in a Debian machine with systemd.

Upgrade, start, settings, reload, watchdog, a machine of its own, another user, stop and end.
"""

from __future__ import annotations

import json
import re

import pytest
from tests.support.debian_agent import put
from tests.support.debian_machine import Machine
from tests.support.debian_server import (
    ANN,
    BOB,
    DATA,
    DROP_IN,
    EARLIER,
    SETTINGS,
    START_SECONDS,
    TOKENS,
    UNIT,
    enable,
    initialised,
    mark,
    prepare,
    said,
    shown,
    state,
    status,
    tokens_of,
    upgrade,
    use,
    version_of,
    waggle,
)

from waggle import __version__

pytestmark = [
    pytest.mark.endurance,  # 12 minutes of a core: run it after a change of packages/
    pytest.mark.vm,
    pytest.mark.slow,
    pytest.mark.net,
    pytest.mark.timeout(1500),
]
BOOT = 600.0
EXAMPLE = "/usr/share/doc/waggle-server/examples/unprivileged.conf"
HOME = "/usr/lib/waggle-server"
GUESTS = "pgrep -x qemu-system-x86 || true"
LEFT = (
    "find / -xdev -path /proc -prune -o -path /test -prune -o -path /run -prune -o"
    " -path /var/lib/dpkg -prune -o -name '*waggle*' -print"
)
"""What is left of the package."""


def test_the_package_starts_nothing_until_somebody_may_call(earlier_machine: Machine) -> None:
    """Runs first: the others start the server. Both packages have the same scripts."""
    machine = earlier_machine
    states = machine.run(f"systemctl is-enabled {UNIT}; systemctl is-active {UNIT}")[1]
    assert states.split() == ["disabled", "inactive"]
    user = machine.sh("getent passwd waggle").split(":")
    assert user[5:] == [DATA, "/usr/sbin/nologin"]
    assert set(machine.sh("id -nG waggle").split()) == {"waggle", "kvm"}
    assert machine.sh(f"stat -c '%a %U %n' {SETTINGS} {DATA}").splitlines() == [
        f"644 root {SETTINGS}",
        f"700 root {DATA}",
    ]


def test_an_upgrade_keeps_edited_settings_and_starts_the_new_server(
    earlier_machine: Machine,
) -> None:
    """Runs second: the others need the new server."""
    machine = earlier_machine
    if EARLIER not in version_of(machine):
        pytest.fail("the other tests have upgraded it: run this one before them, or alone")
    enable(machine)
    machine.sh(f"echo '# Edited.' >>{SETTINGS}")
    edited, pid = machine.sh(f"cat {SETTINGS}"), shown(machine, "MainPID")
    upgrade(machine)
    assert version_of(machine) == f"{__version__}-1"
    assert machine.sh(f"cat {SETTINGS}") == edited
    assert "# Another default." not in machine.sh(f"cat {SETTINGS}.dpkg-dist")
    assert state(machine) == "active"
    assert shown(machine, "MainPID") != pid
    assert machine.sh(f"systemctl is-enabled {UNIT}") == "enabled"
    assert machine.sh(f"find {HOME} -name 'serving.*.pyc'"), "its unit may not compile anything"


def test_a_started_service_listens_and_is_held_to_its_directories(server_machine: Machine) -> None:
    machine = server_machine
    start = mark(machine, "first-start")
    use(machine)
    assert shown(machine, "Type") == "notify-reload"
    assert (status(machine, "/healthz"), status(machine, "/readyz")) == (200, 200)
    assert "listening on http://127.0.0.1:8080" in shown(machine, "StatusText")
    assert initialised(machine, ANN)["serverInfo"]["version"] == __version__

    journal = said(machine, start)
    told = journal.partition(f"Started {UNIT}")[0].splitlines()
    (line,) = (line for line in told if '"listening"' in line)
    assert json.loads(line)["mcp"] == "http://127.0.0.1:8080/mcp", "before systemd calls it started"

    pid = shown(machine, "MainPID")
    assert machine.sh(f"stat -c '%a %U' {DATA} /var/log/waggle").split("\n") == [
        "700 root",
        "750 root",
    ]
    given = int(machine.sh(f"awk '/^CapBnd/ {{print $2}}' /proc/{pid}/status"), 16)
    assert given.bit_count() == 13
    assert "NoNewPrivs:\t1" in machine.sh(f"cat /proc/{pid}/status")
    inside = f"nsenter -t {pid} -m sh -c"
    for place in ("/etc", "/usr", "/var/lib", "/root", "/home"):
        assert machine.run(f"{inside} ': >{place}/test'")[0] != 0, place
    machine.sh(f"{inside} ': >{DATA}/test && rm {DATA}/test && : >/tmp/own' && test ! -e /tmp/own")


def test_a_wrong_setting_is_named_and_not_tried_again(server_machine: Machine) -> None:
    machine = server_machine
    use(machine)
    start = mark(machine, "wrong-setting")
    machine.sh(f"cp {SETTINGS} /run/kept && echo WAGGLE_MAX_ENVIRONMENTS=many >>{SETTINGS}")
    code, _ = machine.run(f"systemctl restart {UNIT}", START_SECONDS)
    assert code != 0
    assert (state(machine), shown(machine, "Result")) == ("failed", "exit-code")
    assert "waggle: WAGGLE_MAX_ENVIRONMENTS='many'" in said(machine, start)
    assert "Scheduled restart job" not in said(machine, start)
    assert status(machine, "/healthz") == 0
    machine.sh(f"cp /run/kept {SETTINGS} && systemctl start {UNIT}", START_SECONDS)
    assert status(machine, "/readyz") == 200


def test_a_reload_takes_the_tokens_that_can_be_used(server_machine: Machine) -> None:
    machine = server_machine
    use(machine)
    pid = shown(machine, "MainPID")
    start = mark(machine, "reload")
    machine.sh(f"kill -STOP {pid}; systemctl reload {UNIT}")  # systemd lets it go on
    assert '"event": "reloaded"' in said(machine, start), "it ends when the files are read"

    put(machine, TOKENS, tokens_of(bob=BOB))
    carl = machine.sh("waggle-with-settings token new carl 2>/dev/null", START_SECONDS)
    machine.sh(f"systemctl reload {UNIT}")
    answers = {token: status(machine, "/mcp", token) for token in (ANN, BOB, carl)}
    assert answers == {ANN: 401, BOB: 405, carl: 405}

    put(machine, TOKENS, "nonsense\n")
    start = mark(machine, "broken-tokens")
    machine.sh(f"systemctl reload {UNIT}")
    for told in (shown(machine, "StatusText"), said(machine, start)):
        assert "Line 1 of the tokens file" in told
    assert {token: status(machine, "/mcp", token) for token in answers} == answers
    assert shown(machine, "MainPID") == pid

    put(machine, TOKENS, tokens_of(ann=ANN))
    machine.sh(f"systemctl reload {UNIT}")
    assert status(machine, "/mcp", ANN) == 405
    assert "tokens" not in shown(machine, "StatusText")


@pytest.mark.endurance
def test_a_machine_works(server_machine: Machine) -> None:
    """Its guest is emulated by QEMU in this emulated machine, so it boots in two minutes."""
    machine = server_machine
    use(machine)
    box = waggle(machine, "env new shell --memory-mb 128 --network none", BOOT)
    assert "Linux" in waggle(machine, f"exec {box} -- /bin/busybox uname", BOOT)


def test_a_server_that_hangs_is_started_again_and_its_machine_ends(server_machine: Machine) -> None:
    """The machine's process runs a guest, which is not waited for: it boots slowly here."""
    machine = server_machine
    use(machine, "[Service]\nWatchdogSec=15s\n")
    create = f"WAGGLE_TOKEN={ANN} waggle env new shell --memory-mb 128 --network none"
    machine.sh(f"{create} >/run/create.log 2>&1 </dev/null &")
    machine.sh(
        f'until guest=$({GUESTS}) && [ -n "$guest" ]'
        # 14 is the time of its processor: more than QEMU needs to start
        " && [ $(cut -d' ' -f14 /proc/$guest/stat) -gt 500 ]; do sleep 0.2; done",
        START_SECONDS,
    )
    (guest,) = machine.sh(GUESTS).split()
    assert int(machine.sh(f"stat -c %u /proc/{guest}")) >= 1_000_000, "a user of its own"

    pid, count = shown(machine, "MainPID"), int(shown(machine, "NRestarts"))
    start = mark(machine, "hang")
    machine.sh(f"kill -STOP {pid}")
    machine.sh(
        f'until [ "$(systemctl show -P NRestarts {UNIT})" = {count + 1} ]'
        f" && systemctl -q is-active {UNIT}; do sleep 0.2; done",
        START_SECONDS,
    )
    assert "Watchdog timeout" in said(machine, start)
    assert shown(machine, "MainPID") != pid
    assert status(machine, "/readyz") == 200
    assert machine.sh(GUESTS) == ""
    assert machine.sh(f"ls {DATA}/environments") == ""


def test_the_example_makes_it_another_users(server_machine: Machine) -> None:
    """As its comments say, also for files that root has made below the directory since."""
    machine = server_machine
    prepare(machine)
    machine.sh(f"systemctl stop {UNIT}; chown waggle: {DATA}; cp {EXAMPLE} {DROP_IN}")
    machine.sh(f"chgrp waggle {TOKENS}; chmod 640 {TOKENS}; systemctl daemon-reload")
    assert machine.sh(f"find {DATA} ! -user waggle | head -1"), "as root has made them"
    machine.sh(f"systemctl start {UNIT}", START_SECONDS)
    assert machine.sh(f"find {DATA} ! -user waggle") == ""
    about = machine.sh(f"cat /proc/{shown(machine, 'MainPID')}/status")
    user = machine.sh("id -u waggle")
    assert re.search(rf"^Uid:\t{user}\t{user}\t{user}\t{user}$", about, re.M)
    assert re.search(r"^CapBnd:\t0+$", about, re.M)
    assert status(machine, "/readyz") == 200
    assert initialised(machine, ANN)["serverInfo"]["version"] == __version__


def test_a_stop_leaves_no_process_a_removal_settings_and_a_purge_nothing(
    server_machine: Machine,
) -> None:
    """Runs last: the next could not use the package."""
    machine = server_machine
    enable(machine)
    edited = machine.sh(f"cat {SETTINGS}")
    pid = shown(machine, "MainPID")
    machine.sh(f"systemctl stop {UNIT}", 30)
    assert shown(machine, "Result") == "success"
    machine.sh(f"test ! -e /proc/{pid} && test ! -e /sys/fs/cgroup/system.slice/{UNIT}")

    machine.sh("apt-get remove -y waggle-server", 120)
    assert machine.run(f"systemctl start {UNIT}")[0] != 0
    assert machine.sh(f"cat {SETTINGS}") == edited
    machine.sh(f"test -e {DATA}/state.db && test -e {TOKENS}")
    machine.sh(f"rm -r {DROP_IN.rpartition('/')[0]}; apt-get purge -y waggle-server", 120)
    assert machine.sh(LEFT) == ""
    assert machine.sh("getent passwd waggle"), "files elsewhere may be its own"

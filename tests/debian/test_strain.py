# SPDX-License-Identifier: Apache-2.0
"""The installed guest agent under strain: kills, hosts that go, garbage, large files, memory."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import subprocess
import sys

import pytest
from tests.support.agent_peer import GOOD
from tests.support.changed import SEED, changed_json
from tests.support.debian_agent import (
    EVERYTHING,
    UNIT,
    answering,
    client,
    memory,
    pid,
    use,
    use_default,
    when_free,
)
from tests.support.debian_machine import OTHER_PORT, Machine
from tests.support.turns import compare_answers

from waggle.domain.errors import GuestLost
from waggle.infra.guest.client import AgentClient
from waggle.infra.guest.protocol import MAX_ANSWER, METHODS, PORT

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.slow,
    pytest.mark.net,
    pytest.mark.timeout(900),
]
KILLS = 100
LINES = 10_000
PINGS = 1_000
BATCH = 100
"""Fuzzed lines, after which the other side must still answer."""
LONG = 1_000
"""Bytes of a fuzzed line; longer ones are left out, since they would only take longer."""
MOST_MEMORY = 2 << 20
CGROUP = f"/sys/fs/cgroup/system.slice/{UNIT}/cgroup.procs"
TORN_HOST = """
import socket, sys
wire = socket.socket(socket.AF_UNIX)
wire.connect(sys.argv[1])
wire.sendall(sys.argv[2].encode())
print(flush=True)
wire.recv(1)
sys.stdin.read()
"""
HOSTILE_AGENT = r"""
use strict;
my ($port, $file, $batch) = @ARGV;
open(my $wire, '+<', $port) or die "$port: $!";
open(my $lines, '<', $file) or die "$file: $!";
my ($rest, $sent) = ('', 0);
sub out { my $data = shift; while (length $data) {
    my $count = syswrite($wire, $data); die $! unless defined $count; substr($data, 0, $count) = '';
} }
while (sysread($wire, $rest, 65536, length $rest)) {
    while ($rest =~ s/^([^\n]*)\n//) {
        my ($id) = $1 =~ /"id":(\d+)/ or next;
        my $data = '';
        for (1 .. $batch) {
            my $line = <$lines>;
            last unless defined $line;
            $line =~ s/1234567/$id/g;
            $data .= $line;
        }
        out("$data\{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":{}}\n");
    }
}
"""


async def test_a_large_file_goes_both_ways(machine: Machine) -> None:
    use(machine, EVERYTHING)
    data = random.Random(SEED).randbytes(10 << 20)
    async with client(machine) as agent:
        await agent.write_file("/var/tmp/large", data)
        assert int(machine.sh("stat -c %s /var/tmp/large")) == len(data)
        assert await agent.read_file("/var/tmp/large") == data
    machine.sh("rm /var/tmp/large")
    assert memory(machine) < MOST_MEMORY


async def test_a_thousand_pings(machine: Machine) -> None:
    use(machine, EVERYTHING)
    async with client(machine) as agent:
        number = pid(machine)
        for _ in range(PINGS // 2):
            await agent.ping()
        await asyncio.gather(*(agent.ping(60) for _ in range(PINGS // 2)))
    assert pid(machine) == number
    assert memory(machine) < MOST_MEMORY


async def test_a_ping_takes_no_longer_than_one_of_qemus_own_agent(machine: Machine) -> None:
    """In the same machine, on ports of the same device, in turns."""
    use_default(machine)
    machine.sh(
        f"qemu-ga -m virtio-serial -p /dev/virtio-ports/{OTHER_PORT} >/run/qemu-ga.log 2>&1 & "
        "echo $! >/run/qemu-ga.pid"
    )
    ours = (machine.agent_socket, _request("ping", {}, 1).encode())
    found = compare_answers(ours, (machine.other_socket, b'{"execute":"guest-ping"}\n'))
    machine.sh("kill $(cat /run/qemu-ga.pid)")
    assert found.ratio <= 1.0, found


@pytest.mark.endurance
async def test_the_agent_is_killed_a_hundred_times(machine: Machine) -> None:
    """Each time systemd starts it again, and the same client gets an answer."""
    use(machine, EVERYTHING, "RestartSec=0")
    async with client(machine) as agent:
        before = int(machine.sh(f"systemctl show -P NRestarts {UNIT}"))
        for _ in range(KILLS):
            machine.sh(f"read -r pid <{CGROUP}; kill -9 $pid")
            await answering(agent)
        assert int(machine.sh(f"systemctl show -P NRestarts {UNIT}")) - before == KILLS
        assert (await agent.run(["/usr/bin/id", "-un"])).stdout == b"root\n"


async def test_hosts_go_a_hundred_times_in_the_middle(machine: Machine) -> None:
    """With half a line, after requests whose answers nobody reads, and killed by SIGKILL."""
    use(machine, EVERYTHING)
    number, chance = pid(machine), random.Random(SEED)
    read = _request("file_read", {"path": "/usr/sbin/waggle-agent"}, 7)
    run = _request("exec_command", {"argv": ["/bin/sleep", "0.2"], "wait": True}, 8)
    async with client(machine) as agent:
        for count in range(KILLS):
            said = chance.choice([read, read * 3, run, read + run])
            torn = said[: chance.randrange(1, len(said))] if count % 3 else said
            if count % 10 == 0:
                _killed_host(machine, torn)
            else:
                _cut_host(machine, torn)
            if count % 5 == 0:
                await agent.close()
                await answering(agent)
                await agent.close()
        await answering(agent)
        ran = await when_free(lambda: agent.run(["/usr/bin/id", "-un"]))
        assert ran.stdout == b"root\n"
    assert pid(machine) == number
    assert memory(machine) < MOST_MEMORY


def _request(method: str, params: object, number: int) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}) + "\n"


def _killed_host(machine: Machine, said: str) -> None:
    argv = [sys.executable, "-ISc", TORN_HOST, str(machine.agent_socket), said]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        host.stdout.readline()
        host.kill()


def _cut_host(machine: Machine, said: str) -> None:
    with socket.socket(socket.AF_UNIX) as wire:
        wire.connect(str(machine.agent_socket))
        wire.sendall(said.encode())


def _fuzzed(good: list[object], count: int) -> list[bytes]:
    """Return so many lines with mistakes in them."""
    chance, lines = random.Random(SEED), list[bytes]()
    while len(lines) < count:
        line = changed_json(chance.choice(good), chance).replace(b"\n", b"")
        if 0 < len(line) < LONG or not chance.randrange(50):
            lines.append(line + b"\n")
    return lines


async def test_fuzzed_requests_change_nothing(machine: Machine) -> None:
    """10,000 lines to the agent, which answers a good one after every hundred."""
    use_default(machine)
    async with client(machine):
        number, boot = pid(machine), machine.boot_id
    params = {"file_read": {"path": "/tmp/fuzz"}, "list_directory": {"path": "/tmp"},
              "file_write": {"path": "/tmp/fuzz", "data": "eA==", "offset": 0, "mode": 0o600},
              "exec_command": {"argv": ["/usr/bin/id"], "wait": False, "timeout": 5},
              "get_process": {"process": 1}, "set_time": {"time": 0},
              "freeze_filesystems": {"timeout": 600},
              "get_agent_info": {"protocol": "1.0"}}  # fmt: skip
    good: list[object] = [
        json.loads(_request(name, params.get(name, {}), at)) for at, name in enumerate(METHODS)
    ]
    lines = _fuzzed(good, LINES)
    reader, writer = await asyncio.open_unix_connection(machine.agent_socket, limit=MAX_ANSWER)
    answered = 0
    try:
        for start in range(0, LINES, BATCH):
            wanted = f"after {start}"
            ping = _request("ping", {}, 0).replace('"id": 0', f'"id": "{wanted}"')
            writer.write(b"\n" + b"".join(lines[start : start + BATCH]) + ping.encode())
            sending = asyncio.create_task(writer.drain())
            while True:
                answer = json.loads(await asyncio.wait_for(reader.readline(), 60))
                if answer.get("id") == wanted:
                    break
                answered += "error" in answer
            await sending
            assert answer["result"] == {}
    finally:
        writer.transport.abort()
    assert answered > LINES // 2, "most were answered with an error"
    async with client(machine) as agent:
        assert (await agent.system_info()).boot_id == boot
    assert pid(machine) == number
    assert memory(machine) < MOST_MEMORY


async def test_fuzzed_answers_are_refused_or_lost(machine: Machine) -> None:
    """10,000 lines from the guest to a client, which waits for an answer after every hundred."""
    use(machine, EVERYTHING)
    good: list[object] = [
        {"jsonrpc": "2.0", "id": 1234567, "result": result} for result in GOOD.values()
    ]
    good.append({"jsonrpc": "2.0", "id": 1234567, "error": {"code": -32000, "message": "no"}})
    good.append({"jsonrpc": "2.0", "method": "audit", "params": {"method": "ping"}})
    lines = _fuzzed(good, LINES)
    async with client(machine) as agent:
        for part in range(0, LINES, 1000):
            await agent.write_file(f"/run/lines-{part}", b"".join(lines[part : part + 1000]))
        await agent.write_file("/run/hostile.pl", HOSTILE_AGENT.encode())
        machine.sh("for n in 0 $(seq 1000 1000 9000); do cat /run/lines-$n; done >/run/lines")
        machine.sh(f"systemctl stop {UNIT}")
        machine.sh(
            f"perl /run/hostile.pl /dev/virtio-ports/{PORT} /run/lines {BATCH} "
            ">/run/hostile.log 2>&1 & echo $! >/run/hostile.pid"
        )
        outcomes = [await _outcome(agent) for _ in range(LINES // BATCH)]
        ended = machine.sh("kill $(cat /run/hostile.pid) 2>/dev/null; cat /run/hostile.log")
        assert ended == ""
        machine.sh(f"systemctl start {UNIT}")
        await answering(agent, 60)
        assert (await agent.system_info()).boot_id == machine.boot_id
    assert set(outcomes) <= {"answered", "refused"}
    assert outcomes.count("answered") > 0


async def _outcome(agent: AgentClient) -> str:
    """Return what came of a request; no answer at all fails after its time."""
    try:
        await agent.ping(60)
    except GuestLost as error:
        return error.message if "no answer" in error.message else "refused"
    return "answered"


async def test_it_wakes_up_for_nothing(machine: Machine) -> None:
    """And nothing is left of what ran."""
    use(machine, EVERYTHING)
    async with client(machine) as agent:
        await agent.metrics()
        number = pid(machine)
        switches = f"grep ctxt /proc/{number}/status"
        before, after = machine.sh(f"{switches}; sleep 10; echo; {switches}").split("\n\n")
        assert before == after
        assert machine.sh(f"cat {CGROUP}").split() == [str(number)]

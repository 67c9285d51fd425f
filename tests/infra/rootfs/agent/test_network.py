# SPDX-License-Identifier: Apache-2.0
"""The network interfaces that the agent lists, here and in network namespaces of its own."""

from __future__ import annotations

import ipaddress
import json
import socket
from pathlib import Path

import pytest
from tests.support.agent_places import after
from tests.support.agent_program import Agent, running_agent

from waggle.infra.guest.protocol import METHODS, system

ALONE = ("--user", "--map-root-user", "--net")
# Addresses as `ifconfig lo:1 10.0.0.1` sets them, each under a label of its own.
ALIASES = """
import fcntl, socket, struct
control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def address(name, text):
    data = struct.pack("16sHH4s8x", name.encode(), socket.AF_INET, 0, socket.inet_aton(text))
    fcntl.ioctl(control, 0x8916, data)  # SIOCSIFADDR
for number in range(%d):
    address(f"lo:{number}", f"10.1.0.{number + 1}")
fcntl.ioctl(control, 0x8914, struct.pack("16sH22x", b"lo", 0x41))  # SIOCSIFFLAGS
"""
# Interfaces of tun(4), which have no hardware address.
TUNNELS = """
import fcntl, struct
for number in range(%d):
    kept = os.open("/dev/net/tun", os.O_RDWR)
    os.set_inheritable(kept, True)
    fcntl.ioctl(kept, 0x400454CA, struct.pack("16sH22x", f"tun{number}".encode(), 0x1001))
"""


def told(agent: Agent) -> system.NetworkInfo:
    result = json.dumps(agent.result("get_network_info"))
    info = METHODS["get_network_info"].result.model_validate_json(result)
    assert isinstance(info, system.NetworkInfo)
    return info


def test_it_lists_the_interfaces_of_this_machine(agent: Agent) -> None:
    info = told(agent)
    names = [interface.name for interface in info.interfaces]
    assert names == [name for _, name in socket.if_nameindex()][:64]
    for interface in info.interfaces:
        here = Path("/sys/class/net") / interface.name
        assert interface.mtu == int((here / "mtu").read_text())
        if len(address := (here / "address").read_text().strip()) == 17:
            assert interface.mac == address
        for address in interface.addresses:
            assert "%" not in str(ipaddress.ip_interface(address))
    loopback = next(one for one in info.interfaces if one.name == "lo")
    assert loopback.is_up
    assert "127.0.0.1/8" in loopback.addresses


def test_an_interface_that_is_down_is_listed_as_such(agent_program: Path, tmp_path: Path) -> None:
    with running_agent(agent_program, tmp_path, prefix=after("", *ALONE)) as agent:
        info = told(agent)
    assert [(one.name, one.is_up, one.addresses) for one in info.interfaces] == [("lo", False, [])]
    assert not info.truncated


@pytest.mark.parametrize("count, is_cut", [(3, False), (40, True)])
def test_addresses_with_labels_are_their_interfaces(
    agent_program: Path, tmp_path: Path, count: int, is_cut: bool
) -> None:
    prefix = after(ALIASES % count, *ALONE)
    with running_agent(agent_program, tmp_path, prefix=prefix) as agent:
        info = told(agent)
    assert [one.name for one in info.interfaces] == ["lo"]
    addresses = info.interfaces[0].addresses
    assert set(addresses) >= {f"10.1.0.{number + 1}/8" for number in range(min(count, 30))}
    assert len(addresses) <= 32
    assert info.truncated == is_cut


@pytest.mark.parametrize("count, is_cut", [(2, False), (70, True)])
def test_many_interfaces_are_cut(
    agent_program: Path, tmp_path: Path, count: int, is_cut: bool
) -> None:
    prefix = after(TUNNELS % count, *ALONE)
    with running_agent(agent_program, tmp_path, prefix=prefix) as agent:
        info = told(agent)
    tunnels = [one for one in info.interfaces if one.name.startswith("tun")]
    assert len(info.interfaces) == min(count + 1, 64)
    assert all(one.mac == "" and one.mtu == 1500 and not one.is_up for one in tunnels)
    assert info.truncated == is_cut

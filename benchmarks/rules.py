# SPDX-License-Identifier: Apache-2.0
"""One decision of the egress proxy by 1,000 rules and by one, without a machine."""

from __future__ import annotations

import time
from ipaddress import ip_address

from benchmarks.figures import compare
from benchmarks.interleave import interleave
from benchmarks.options import Options
from benchmarks.table import Result
from waggle.domain.network import Default, Network, parse_network
from waggle.domain.network.judging import Judge
from waggle.domain.network.rules import parse_rule

ROUNDS = 40
DECISIONS = 500
MILLISECONDS = 1e3
NAMES, BLOCKS = 600, 400


async def measure(options: Options) -> list[Result]:
    """Measure the row `rules`."""
    names = [parse_rule(f"n{number}.e{number % 50}.example.org") for number in range(NAMES)]
    blocks = [
        parse_rule(f"deny 10.{number % 250}.{number // 250}.0/{16 + number % 17}")
        for number in range(BLOCKS)
    ]
    many = Network(Default.RULES, (*names, *blocks))
    one = parse_network("n599.e49.example.org")
    seconds = await interleave(
        {"many": lambda: _decide(many), "one": lambda: _decide(one)},
        rounds=options.rounds or ROUNDS,
        warmups=2,
        tick=options.tick,
    )
    found = compare(*seconds.values())
    return [
        Result(
            "rules",
            found.ours * MILLISECONDS,
            f"{found.ours * MILLISECONDS:.3f} ms",
            f"{found.theirs * MILLISECONDS:.3f} ms",
            f"{found.rounds} rounds of {DECISIONS} decisions",
        )
    ]


async def _decide(network: Network) -> float:
    """Return the seconds of one decision about a name and its address, by both networks."""
    judge = Judge(network, network)
    address = ip_address("93.184.216.34")
    began = time.perf_counter()
    for _ in range(DECISIONS):
        name = judge.name("n599.e49.example.org", 443)
        if judge.address(address, 443, name=name).result.is_denied:
            raise RuntimeError("the rule does not allow it")
    return (time.perf_counter() - began) / DECISIONS

# SPDX-License-Identifier: Apache-2.0
"""The results of one attack, and their limits. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

STALL, MORE_WAIT, GROWTH, KEPT, DESTROY = 0.25, 0.2, 150.0, 1.15, 10.0
"""Seconds, seconds beyond the quiet value, MiB, a factor of the memory before, and seconds."""


@dataclass(frozen=True)
class Figures:
    """Seconds and MiB. `why` is the reason for missing figures, if something failed."""

    name: str
    seconds: float = 0.0
    stall: float = 0.0
    computed: float = 0.0
    """The most CPU time of the loop's thread in a stall: it may also wait for a processor."""
    p99: float = 0.0
    quiet: float = 0.0
    lists: int = 0
    refused: int = 0
    execute: float = 0.0
    """B's longest wait for an answer of `execute`."""
    executes: int = 0
    failures: list[str] = field(default_factory=list[str])
    before: float = 0.0
    peak: float = 0.0
    after: float = 0.0
    destroy: float = 0.0
    destroys: int = 0
    left: dict[str, int] = field(default_factory=dict[str, int])
    said: dict[str, int] = field(default_factory=dict[str, int])
    """The server's answers to the attacker, with counts."""
    logged: list[str] = field(default_factory=list[str])
    """Lines of the server's log that a healthy one never writes."""
    why: str = ""


def exceeded(figures: Figures) -> list[str]:
    """Describe every exceeded limit; empty if there are none."""
    if figures.why:
        return [figures.why]
    more = figures.p99 - figures.quiet
    checks = {
        f"stall {figures.stall * 1e3:.0f} ms": figures.stall > STALL,
        f"list +{more * 1e3:.0f} ms": more > MORE_WAIT,
        f"{figures.refused} lists refused": figures.refused > 0,
        "no list": figures.lists == 0,
        f"{len(figures.failures)} executes without an answer": bool(figures.failures),
        "no execute": figures.executes == 0,
        f"memory +{figures.peak - figures.before:.0f} MiB": figures.peak - figures.before > GROWTH,
        f"memory kept {kept(figures):+.0f} %": figures.after > figures.before * KEPT,
        f"destroy {figures.destroy:.1f} s": figures.destroy > DESTROY,
        f"left: {figures.left}": bool(figures.left),
        f"{len(figures.logged)} errors logged": bool(figures.logged),
    }
    return [what for what, is_over in checks.items() if is_over]


def kept(figures: Figures) -> float:
    """Return the growth of memory afterwards, in percent."""
    return (figures.after / figures.before - 1) * 100 if figures.before else 0.0

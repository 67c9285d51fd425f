# SPDX-License-Identifier: Apache-2.0
"""The table of docs/security.md, between two marks, and lines for a terminal. Pure.

Rows that were not measured now stay, so that a run can be made in parts.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.attacks.figures import Figures, exceeded, kept
from benchmarks.attacks.table import WHAT

BEGIN = "<!-- Written by `./task attacks -- --write` from benchmarks/attacks/; do not edit. -->"
END = "<!-- The end of what `./task attacks` wrote. -->"
_COLUMNS = (
    "Attack", "What A does", "Stall, ms", "Of it computing", "B's list p99 (quiet), ms",
    "B's execute, worst, s", "Memory, MiB", "Afterwards", "Destroy, s", "Within the limits",
)  # fmt: skip
_MISSING = "not measured"


def row(figures: Figures) -> str:
    """Format an attack's line of the table."""
    over = exceeded(figures)
    verdict = f"**no**: {_cell('; '.join(over))}" if over else "yes"
    cells = [f"`{figures.name}`", WHAT[figures.name]]
    if figures.why:
        cells += [""] * 7
    else:
        cells += [
            f"{figures.stall * 1e3:.0f}",
            f"{figures.computed * 1e3:.0f}",
            f"{figures.p99 * 1e3:.0f} ({figures.quiet * 1e3:.0f})",
            f"{figures.execute:.1f}",
            f"{figures.before:.0f} +{max(0.0, figures.peak - figures.before):.0f}",
            f"{kept(figures):+.0f} %",
            f"{figures.destroy:.1f}",
        ]
    return _line([*cells, verdict])


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:200]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def page(text: str, results: Sequence[Figures], measured_on: str) -> str:
    """Return the document with these results. Raises ValueError if it lacks the marks."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError("the document has no place for the table")
    rows = rows_of(text) | {figures.name: row(figures) for figures in results}
    missing = [name for name in WHAT if name not in rows]
    lines = [_line(_COLUMNS), _line(["---"] * len(_COLUMNS))]
    lines += [rows[name] for name in WHAT if name in rows]
    lines += [_line([f"`{name}`", WHAT[name], *[""] * 7, _MISSING]) for name in missing]
    table = "\n".join(lines)
    return f"{head}{BEGIN}\n\n{measured_on}\n\n{table}\n\n{END}{tail}"


def rows_of(text: str) -> dict[str, str]:
    """Return the lines of the measured attacks, by name."""
    inside = text.partition(BEGIN)[2].partition(END)[0]
    found: dict[str, str] = {}
    for line in inside.splitlines():
        name = line.removeprefix("| ").partition(" |")[0].strip("`")
        if name in WHAT and not line.endswith(f"| {_MISSING} |"):
            found[name] = line
    return found


def terminal(figures: Figures) -> str:
    """Format the same figures, and the answers to the attacker and logged errors."""
    over = exceeded(figures)
    said = ", ".join(f"{count} {what}" for what, count in figures.said.items())
    lines = [
        f"{figures.name}: {'NO: ' + '; '.join(over) if over else 'within the limits'}",
        f"  stall {figures.stall * 1e3:.0f} ms (computing {figures.computed * 1e3:.0f}), "
        f"list p99 {figures.p99 * 1e3:.0f} ms (quiet {figures.quiet * 1e3:.0f}, "
        f"{figures.lists} lists), execute worst {figures.execute:.1f} s of {figures.executes}, "
        f"memory {figures.before:.0f} MiB +{figures.peak - figures.before:.0f}, "
        f"after {kept(figures):+.0f} %, destroy {figures.destroy:.2f} s of {figures.destroys}",
        f"  A heard: {said or 'nothing'}",
        *(f"  B heard: {failure}" for failure in figures.failures[:3]),
        *(f"  logged: {line}" for line in figures.logged[:5]),
    ]
    return "\n".join(lines)

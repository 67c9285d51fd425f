# SPDX-License-Identifier: Apache-2.0
"""The table for the terminal, and docs/benchmarks.md, written and read back. Pure.

Reading back allows one group to be measured again while the other rows of the page stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from benchmarks.table import ROWS, Result, Row, figure, is_kept

HEAD = """\
<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Written by `./task bench -- --full --write` from benchmarks/; do not edit. -->

# Benchmarks

What waggle costs compared with its parts. A time of one machine says little about another, so each
row compares two sides of the same run: they take turns (A B, B A, A B ...), a round gives one
ratio, and the row shows the median ratio with the range of the middle half of the rounds. `waggle`
and `other` are medians of seconds, for orientation only. Limits hold on all machines.

The waggle side is always a real `waggle serve` process and an MCP client over streamable HTTP,
with default settings, but without templates, so that all creates boot. `template`, `first-python`,
`first-data` and the group `contexts` use templates; `pause`, `density`, `fork` and `fork-living`
measure the services behind the tools, with templates, and so do the rows of firecracker, where
QEMU uses KVM, too; `krun-banner`, `krun-memory` and `firecracker-restore` measure only the
hypervisor. The rows of tokens have no other side: their limits are promises. Without hardware
virtualisation the rows of krun and firecracker are measured in the lab (lab.md), where a machine
boots in a machine that is itself emulated. Run all rows with `./task bench`, some with
`./task bench -- cold list`. An otherwise idle machine gives the narrowest ranges, but the ratios
also hold on a busy one.

In the groups `calls`, `load` and `sessions` the server has a tokens file, metrics and an audit
log, and its environments are real machines. `call` and `session` are calls of the SDK's client;
`wire` and `sessions` send prepared bytes, which shows the server's share alone. Of that share, the
answer about ten environments takes 1.1 to 1.25 x of a no-op when the SDK's own server gives it.
Both sides run uvicorn on asyncio. The SDK's server parses HTTP with h11, which is installed with
it; waggle parses with httptools, which it installs. In the rows `same` both use httptools.

`template` does not reach its limit under TCG. A copy starts without translated code, and QEMU
spends nearly all of the time translating code that the guest runs for the first time: 70 % of the
samples of a first Python. It translates 9,500 blocks for renewal, 13,800 for the SSH handshake,
2,700 for the proxy's port and 17,000 for a first `true`, at about 15 us of one processor per
block; a first Python takes 54,000. Before that QEMU itself needs 30 to 40 ms of processor time. A
boot of the same machine once took 5.7 s to a first command and now takes 2.8 s on a quiet machine,
so a tenth is 0.28 s, or 16,000 blocks. Only a machine that has run before its caller comes is
faster.

Rows of firecracker in the lab: in `firecracker-cold` both sides boot the same kernel and kit and
connect in the same way, which takes nine tenths of the time; runs gave 0.86 to 0.98. In
`firecracker-pause` the resume is what a create from a template is; that is the next row. The pause
takes 0.4 to 0.6 s besides: sums of what has changed, its write and flush, Firecracker's own
snapshot, and its end. Runs gave 1.2 to 1.6 for both together: the machine has one processor, and
what it emulates anew after a pause costs as much as a step of these. The first pause of an
environment writes all its memory, which takes 0.5 s more; the warm-up has it.
"""

_COLUMNS = ("Name", "What", "Against", "waggle", "other", "Result", "Limit", "Kept", "How")


def page(results: Mapping[str, Result], machine: str) -> str:
    """Format the whole page. A row without a result is marked as such."""
    lines = [_line(_COLUMNS), _line("---" for _ in _COLUMNS)]
    lines += [_line(_cells(row, results.get(row.key))) for row in ROWS]
    return f"{HEAD}\nMeasured on {machine}.\n\n" + "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Row, result: Result | None) -> tuple[str, ...]:
    limit = "none" if row.limit is None else f"{row.limit:g} {row.unit}"
    start = (f"`{row.key}`", row.what, row.against)
    if result is None:
        return (*start, "", "", "not measured", limit, "", "")
    kept = "" if row.limit is None else "yes" if is_kept(row, result.value) else "**no**"
    value = figure(row, result.value)
    return (*start, result.ours, result.theirs, value, limit, kept, result.how)


def read_page(text: str) -> dict[str, Result]:
    """Parse the results of a page, by key. Skips lines that are not results of a known row."""
    keys = {row.key for row in ROWS}
    results: dict[str, Result] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        key = cells[0].strip("`")
        if key not in keys or len(cells) != len(_COLUMNS) or cells[5] == "not measured":
            continue
        value = float(cells[5].split()[0])
        results[key] = Result(key, value, ours=cells[3], theirs=cells[4], how=cells[8])
    return results


def terminal(results: Iterable[Result]) -> str:
    """Format the same figures briefly, aligned for a terminal."""
    known = {row.key: row for row in ROWS}
    table = [("", "waggle", "other", "result", "limit", "", "")]
    for result in results:
        row = known[result.key]
        _, _, _, ours, theirs, value, limit, kept, how = _cells(row, result)
        verdict = {"yes": "ok", "": ""}.get(kept, "TOO MUCH")
        table.append((row.key, ours, theirs, value, limit, verdict, how))
    widths = [max(len(cells[column]) for cells in table) for column in range(len(table[0]))]
    lines = ("  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) for cells in table)
    return "\n".join(line.rstrip() for line in lines)


def missed(results: Iterable[Result]) -> list[str]:
    """Return the keys of the results that are over their limit."""
    known = {row.key: row for row in ROWS}
    return [result.key for result in results if not is_kept(known[result.key], result.value)]

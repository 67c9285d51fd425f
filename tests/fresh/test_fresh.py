# SPDX-License-Identifier: Apache-2.0
"""A real bare root: its contents, its users, and a machine that fails.

The root is kept for later runs; `./task fresh --quick`, which CI runs too, makes its own each time.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path

import pytest
from fresh.__main__ import run
from fresh.plan import WITH_SUDO, Machine, Step
from fresh.root import ORDINARY, ROOT
from lab.store import Store, key_of

from fresh import root
from waggle.config import load
from waggle.config.places import Places

pytestmark = [
    pytest.mark.net,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can make a bare root"),
]
NOTHING_ELSE = (
    "! command -v curl && ! command -v gcc && ! python3 -c 'import ensurepip' 2>/dev/null"
)
CLEAN_CLONE = 'cd waggle && test -z "$(git status --porcelain)" && ! test -e .venv'
VARIABLES = 'test -z "$WAGGLE_SECRET" && test "$HOME" = /home/waggle && test "$USER" = waggle'
RIGHTS = 'test "$(id -u)" = 1000 && sudo -n test "$(sudo -n id -u)" = 0'


def kept(store: Store, suite: str, tree: Path) -> None:
    """Copy the root of a suite, which is made if the store has none."""

    async def make(directory: Path) -> None:
        root.make(suite, directory / "root")

    key = key_of(Path(root.__file__).read_bytes())
    made = asyncio.run(store.ensure(f"bare-{suite}", key, make))
    root.copy(made / "root", tree)


def test_steps_run_on_bare_machines_and_a_failed_one_affects_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store(Places.of(load()).cache / "fresh")
    monkeypatch.setenv("WAGGLE_SECRET", "x")
    machines = [
        Machine("broken", ROOT, (Step("never", "true"),), prepare="exit 3"),
        Machine("root", ROOT, (Step("nothing else", NOTHING_ELSE), Step("fails", "exit 7"))),
        Machine(
            "user",
            ORDINARY,
            (Step("variables", VARIABLES), Step("rights", RIGHTS), Step("clone", CLEAN_CLONE)),
            WITH_SUDO,
        ),
    ]
    outcomes = run("bookworm", machines, partial(kept, store))
    found = [(each.machine, each.step, each.code) for each in outcomes]
    assert found == [
        ("broken", "prepare", 2),
        ("root", "nothing else", 0),
        ("root", "fails", 7),
        ("user", "variables", 0),
        ("user", "rights", 0),
        ("user", "clone", 0),
    ]

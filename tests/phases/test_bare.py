# SPDX-License-Identifier: Apache-2.0
"""The fast tests for a bare root: all that call a system's programs, and no place is stale."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.phases.bare import PLACES, PROGRAMS, calls_programs, selection
from tests.phases.plan import ROOT


@pytest.mark.parametrize("pattern", PLACES)
def test_a_place_has_tests_and_a_reason(pattern: str) -> None:
    places = list(ROOT.glob(pattern))
    assert any(place.is_file() or list(place.rglob("test_*.py")) for place in places)
    assert PLACES[pattern]


def test_every_module_that_calls_programs_is_chosen_once_and_pure_ones_are_not() -> None:
    chosen = [ROOT / name for name in selection(ROOT)]
    modules = [
        each for place in chosen for each in ([place], place.rglob("test_*.py"))[place.is_dir()]
    ]
    assert len(modules) == len(set(modules))
    names = {str(module.relative_to(ROOT)) for module in modules}
    assert names >= {
        "tests/infra/host/test_preflight.py",
        "tests/infra/archive/test_trees_of_others.py",
        "tests/infra/net/tls/test_clients.py",
        "tests/test_wheel.py",
    }
    assert not [name for name in names if name.startswith(("tests/domain/test_", "tests/mcp/"))]


def test_programs_count_through_modules_of_tests(tmp_path: Path) -> None:
    files = {
        "tests/test_direct.py": f"from {PROGRAMS} import program",
        "tests/test_through.py": "def later() -> None:\n    from tests.support import rig",
        "tests/test_pure.py": "import tests.support.other, json",
        "tests/support/rig.py": f"import {PROGRAMS}, tests.support.other",
        "tests/support/other.py": "from tests.support import other",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = [name for name in files if calls_programs(tmp_path / name, tmp_path)]
    assert found == ["tests/test_direct.py", "tests/test_through.py", "tests/support/rig.py"]

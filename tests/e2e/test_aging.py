# SPDX-License-Identifier: Apache-2.0
"""The `aging` machines start only if a selected test uses them, whatever its name or file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from tests.e2e.aging import looked_at


def item(beside: pytest.FixtureRequest, test: object) -> pytest.Item:
    function = cast("Any", pytest.Function)
    return function.from_parent(beside.node.parent, name="test_reaper", callobj=test)


def test_no_machine_ages_unless_a_test_uses_it(request: pytest.FixtureRequest) -> None:
    def asks(aging: object) -> None: ...
    def does_not(tmp_path: Path) -> None: ...

    assert not looked_at([request.node, item(request, does_not)])
    assert looked_at([request.node, item(request, asks)])

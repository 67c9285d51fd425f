# SPDX-License-Identifier: Apache-2.0
"""What is said about a decision."""

from __future__ import annotations

import pytest

from waggle.domain.network import PUBLIC_NETWORK
from waggle.domain.network.decisions import Decision, next_step


@pytest.mark.parametrize(
    "code,says",
    [
        ("bytes-used-up", "WAGGLE_EGRESS_MAX_MB"),
        ("owner-bytes-used-up", "WAGGLE_EGRESS_OWNER_MB"),
        ("too-many-names", "look up fewer at once"),
    ],
)
def test_a_limit_has_a_next_step_of_its_own(code: str, says: str) -> None:
    refused = Decision("example.org", 443, code, "this environment has used up the 1 MiB")
    assert refused.sentence.startswith("example.org:443 was refused: this environment has")
    assert says in next_step(refused, PUBLIC_NETWORK)
    assert "WAGGLE_EGRESS_ALLOW_CIDRS" not in next_step(refused, PUBLIC_NETWORK)

# SPDX-License-Identifier: Apache-2.0
"""Quotas: what one owner may hold, and the refusal of more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.access import Quota, share_of
from waggle.domain.errors import QuotaExceeded

SEATS = Quota("seats", 3, "WAGGLE_MAX_SEATS", "Stand up, then try again.")


def test_a_request_within_the_quota_is_accepted() -> None:
    SEATS.require("ann", 2)
    SEATS.require("ann", 0, 3)


def test_the_error_names_the_owner_the_numbers_and_the_next_step() -> None:
    with pytest.raises(QuotaExceeded) as refused:
        SEATS.require("ann", 3)
    assert refused.value.message == "Owner ann has 3 of the 3 seats that one owner may have."
    assert refused.value.hint == (
        "Stand up, then try again. The operator's limit is WAGGLE_MAX_SEATS."
    )
    assert refused.value.retryable
    with pytest.raises(QuotaExceeded, match=r"has 2 of the 3 seats .* 2 more do not fit\."):
        SEATS.require("ann", 2, 2)


@given(whole=st.integers(1, 10_000))
def test_the_share_of_one_of_several_owners_leaves_a_rest_for_others(whole: int) -> None:
    assert share_of(whole, several=False) == whole
    share = share_of(whole, several=True)
    assert 1 <= share <= whole
    assert whole == 1 or whole - share == whole // 2 >= 1

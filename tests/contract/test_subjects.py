# SPDX-License-Identifier: Apache-2.0
"""Which are under contract here, of those that users bring, such as firecracker."""

from __future__ import annotations

import pytest
from tests.contract.subjects import real_hypervisors
from tests.support import vmms

from waggle.infra.vmm.version import Vmm


@pytest.mark.vm
@pytest.mark.parametrize("vmm", Vmm)
def test_a_vmm_that_users_bring_is_under_contract(vmm: Vmm) -> None:
    if why := vmms.why_not(vmm):
        pytest.skip(f"{vmm.upper()} WAS NOT TESTED HERE: {why} (the lab has Firecracker)")
    assert vmm in real_hypervisors()

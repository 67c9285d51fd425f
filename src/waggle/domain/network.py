# SPDX-License-Identifier: Apache-2.0
"""What a guest may reach. Decided per environment at creation, enforced by the egress proxy."""

from __future__ import annotations

from enum import StrEnum


class NetworkPolicy(StrEnum):
    """What a guest may reach.

    `NONE`: nothing at all. `PUBLIC`: the internet through the host-side proxy, never the host,
    loopback, private, link-local or metadata addresses.
    """

    NONE = "none"
    PUBLIC = "public"

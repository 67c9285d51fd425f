# SPDX-License-Identifier: Apache-2.0
"""How much an environment, an owner or a server has exchanged with the network.

The egress proxy counts, and metrics and views of environments read the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Traffic:
    """Running totals, of one environment, of one owner or of all."""

    to_guest: int = 0
    """Bytes from servers."""
    to_internet: int = 0
    """Bytes to servers."""
    connections: int = 0
    """Connections of guests to the proxy."""
    refused: int = 0
    """Requests that the proxy answered itself: denied, failed or malformed."""
    open: int = 0
    """Connections now."""

    @property
    def bytes(self) -> int:
        """Both directions together."""
        return self.to_guest + self.to_internet

# SPDX-License-Identifier: Apache-2.0
"""Why a file is left as it is."""

from __future__ import annotations

from waggle.domain.errors import WaggleError


class CannotMerge(WaggleError):
    """The entry cannot be put into this file without risk to what else is in it."""

    code = "cannot_merge"

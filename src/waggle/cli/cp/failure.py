# SPDX-License-Identifier: Apache-2.0
"""What stops a copy on this machine's side."""

from __future__ import annotations

from waggle.domain.errors import WaggleError


class CopyFailed(WaggleError):
    """A file or directory here, or what it would become, stands in the way."""

    code = "copy_failed"

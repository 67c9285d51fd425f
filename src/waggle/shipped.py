# SPDX-License-Identifier: Apache-2.0
"""The paths of image definitions and documents: in an installed wheel, or in a checkout.

Pure except for the look at which of the two this is. Used wherever a message names a document.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGED = Path(__file__).parent / "_data"
_ROOT = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2]

IMAGES = _ROOT / "images"


def document(name: str) -> Path:
    """Return the path of a document, such as `configuration.md`."""
    return _ROOT / "docs" / name

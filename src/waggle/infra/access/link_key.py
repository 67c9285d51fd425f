# SPDX-License-Identifier: Apache-2.0
"""The server's key for signed links: 32 random bytes in a file of its data directory.

Read by the composition root, with the directory's lock held. Made when it is missing, so removing
the file ends all links. Knows nothing of links.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from waggle.domain.errors import SettingsInvalid
from waggle.domain.link import KEY_BYTES
from waggle.infra.shared.files import atomic_write


def load_link_key(path: Path) -> bytes:
    """Return the key, which is made if there is no file. Raises SettingsInvalid."""
    try:
        if not os.path.lexists(path):
            atomic_write(path, secrets.token_bytes(KEY_BYTES), 0o600)
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            key = file.read(KEY_BYTES + 1)
    except OSError as error:
        raise SettingsInvalid(
            f"The key for links, {path}, cannot be used: {error.strerror}.",
            hint="Check WAGGLE_DATA_DIR, and who may write there.",
        ) from error
    is_safe = stat.S_ISREG(status.st_mode) and not status.st_mode & 0o077
    if not is_safe or status.st_uid not in (0, os.geteuid()) or len(key) != KEY_BYTES:
        raise SettingsInvalid(
            f"The key for links, {path}, is damaged or open to others.",
            hint="Remove it: the server makes a new one, and links made before end.",
        )
    return key

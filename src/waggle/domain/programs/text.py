# SPDX-License-Identifier: Apache-2.0
"""Text of clients on its way to bytes, checked. Pure; called by all who send text to a guest."""

from __future__ import annotations

from waggle.domain.errors import InvalidArgument

NUL_HINT = "Leave the NUL character out; Linux ends a text there."


def encoded(text: str, what: str, *, hint: str = "") -> bytes:
    """`text` in UTF-8. Raises InvalidArgument for lone surrogates, which JSON can carry.

    `what` begins the message; `hint` is another way, where there is one.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"\\u{ord(text[error.start]):04x}"
        raise InvalidArgument(
            f"{what} is not valid Unicode text.",
            hint=hint or f"It has {found}, half of a surrogate pair: leave it out or complete it.",
        ) from None

# SPDX-License-Identifier: Apache-2.0
"""How a command is told to the kit's launcher (rootfs/kit/guest/frame.c). Pure."""

from __future__ import annotations

import struct

from waggle.domain.programs.execution import Command, GuestUser


def frame(command: Command) -> bytes:
    """What the launcher reads first: a length, then NUL-terminated fields."""
    fields = ["r"] if command.user is GuestUser.ROOT else []
    if command.cwd is not None:
        fields.append(f"d{command.cwd}")
    fields += [f"e{name}={value}" for name, value in command.env.items()]
    fields += [f"a{word}" for word in command.argv]
    if command.code is not None:
        fields += [f"c{len(command.code)}", f"x{command.extension}"]
        fields += ["o"] if command.apart else []
    body = b"".join(field.encode() + b"\0" for field in fields)
    return struct.pack(">I", len(body)) + body

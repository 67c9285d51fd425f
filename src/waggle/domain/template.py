# SPDX-License-Identifier: Apache-2.0
"""What a template is made of: a frozen machine serves those who want exactly that machine. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from waggle.domain.environment import Resources

_ID_LENGTH = 24


@dataclass(frozen=True, slots=True)
class TemplateKey:
    """Everything that a frozen machine depends on, by name."""

    parts: Mapping[str, str]

    @classmethod
    def of(
        cls,
        *,
        image: str,
        kernel: str,
        kit: str,
        resources: Resources,
        certificates: bytes,
        warmed: tuple[str, ...],
        vmm: Mapping[str, str],
        owner: str | None = None,
    ) -> TemplateKey:
        """`image` is a digest, `warmed` what was run before, `vmm` a fingerprint.

        `owner` is the only one whose machines may go on from it; None: everybody's may.
        """
        return cls(
            {
                "image": image,
                "kernel": kernel,
                "kit": kit,
                "cpus": str(resources.cpus),
                "memory_mib": str(resources.memory_mib),
                "disk_mib": str(resources.disk_mib),
                "certificates": hashlib.sha256(certificates).hexdigest()[:16],
                "warmed": json.dumps(warmed),
                **vmm,
                **({} if owner is None else {"owner": owner}),
            }
        )

    @property
    def id(self) -> str:
        """A short digest of all parts; fit for a file's name."""
        text = json.dumps(dict(self.parts), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:_ID_LENGTH]

    def differences(self, other: TemplateKey) -> list[str]:
        """The names of the parts that differ, in order."""
        names = {**self.parts, **other.parts}
        return [name for name in names if self.parts.get(name) != other.parts.get(name)]


@dataclass(frozen=True, slots=True)
class Template:
    """A frozen machine on the disk. `size` is bytes that it takes there."""

    key: TemplateKey
    directory: Path
    created_at: datetime
    used_at: datetime
    size: int

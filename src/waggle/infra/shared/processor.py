# SPDX-License-Identifier: Apache-2.0
"""The host's processor, as frozen machines are locked to it. Used by the hypervisors."""

from __future__ import annotations

import hashlib
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_CPU_FIELDS = ("vendor_id", "cpu family", "model", "stepping", "microcode", "flags")


def host_cpu() -> str:
    """Return a short digest of the properties that a guest sees."""
    facts = _processor()
    text = "\n".join(f"{key}={facts.get(key, '')}" for key in _CPU_FIELDS)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def host_model() -> str:
    """Return this processor's model: an emulated guest was given its counter's frequency."""
    return _processor().get("model name", "unknown")


def _processor() -> dict[str, str]:
    first = CPUINFO.read_text().partition("\n\n")[0]
    rows = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in rows}

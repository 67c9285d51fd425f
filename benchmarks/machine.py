# SPDX-License-Identifier: Apache-2.0
"""A one-line description of the machine that ran the benchmarks."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

from waggle.config import load
from waggle.infra.host.hypervisors import choose_acceleration, read_kvm_facts


def describe() -> str:
    """Return cores, system, Python, QEMU and its acceleration."""
    settings = load()
    accelerator = choose_acceleration(settings.accel, read_kvm_facts()).accel
    said = subprocess.run(
        [settings.qemu_binary, "--version"], check=True, capture_output=True, text=True
    ).stdout
    version = re.search(r"\d+(\.\d+)+", said)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
    return (
        f"{os.cpu_count()} cores ({_processor()}), {memory} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, QEMU {version.group() if version else 'unknown'} "
        f"with {accelerator}"
    )


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return " ".join(found.group(1).split()) if found else platform.machine()

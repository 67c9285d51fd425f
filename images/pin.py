# SPDX-License-Identifier: Apache-2.0
"""Writes requirements.txt of the images: run `.venv/bin/python images/pin.py` in the checkout.

What they have is PACKAGES and what these need; pip chooses the newest wheels for the
image's Python on this machine's architecture, from wherever it is configured to look.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

PACKAGES = {
    "python": ("ipython", "pip", "setuptools", "wheel"),
    "data": (
        "beautifulsoup4",
        "lxml",
        "matplotlib",
        "numpy",
        "openpyxl",
        "pandas",
        "pillow",
        "plotly",
        "pyarrow",
        "requests",
        "scikit-learn",
        "scipy",
        "seaborn",
        "sympy",
    ),
}
HEAD = """\
# SPDX-License-Identifier: Apache-2.0
# Written by images/pin.py. Wheels for CPython 3.13 on {machine}; image.toml installs them.
"""


def pin(image: str, packages: Sequence[str]) -> None:
    """Resolve, and write the file of an image."""
    machine = platform.machine()
    tags = [f"--platform=manylinux_2_{n}_{machine}" for n in range(41, 4, -1)]
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        argv = [
            *(sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed"),
            *("--only-binary=:all:", "--python-version=3.13", "--implementation=cp", *tags),
            *(f"--target={directory}/x", f"--report={report}", *packages),
        ]
        subprocess.run(argv, check=True)
        found = json.loads(report.read_text("utf-8"))["install"]
    lines = [HEAD.format(machine=machine)]
    for item in sorted(found, key=lambda item: item["metadata"]["name"].lower()):
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
        lines.append(f"{name}=={version} \\\n    --hash=sha256:{digest}\n")
    (Path(__file__).parent / image / "requirements.txt").write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    for each, wanted in PACKAGES.items():
        pin(each, wanted)

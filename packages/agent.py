# SPDX-License-Identifier: Apache-2.0
"""The packages of the guest agent: a .deb, an .rpm, and an archive with a script that installs it.

Called by `packages.make`, which has the program compiled first. All three have the same files; the
archive's are for /usr/local. Knows nothing of the steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from packages.stage import Stage

NAME = "waggle-agent"
SOURCES = Path("src/waggle/infra/rootfs/kit/agent")
_EXAMPLES = ("exec.conf", "files.conf", "power.conf")
_DOC = f"usr/share/doc/{NAME}"
_RULES = "60-waggle-agent.rules"


def stage_deb(root: Path, values: Mapping[str, str], program: bytes, checkout: Path) -> Stage:
    """Lay out the .deb."""
    new = _stage_system(root, values, program, checkout)
    new.fill(f"{_DOC}/copyright", "agent/copyright")
    new.fill(f"{_DOC}/changelog.Debian", "changelog")
    new.fill(f"usr/share/lintian/overrides/{NAME}", "agent/lintian-overrides")
    new.settle()
    new.control("agent", "postinst", "prerm", "postrm")
    return new


def stage_rpm(root: Path, values: Mapping[str, str], program: bytes, checkout: Path) -> Stage:
    """Lay out the .rpm."""
    new = _stage_system(root, values, program, checkout)
    new.fill(f"usr/share/licenses/{NAME}/copyright", "agent/copyright")
    new.put(f"usr/share/licenses/{NAME}/LICENSE", (checkout / "LICENSE").read_bytes())
    new.settle()
    return new


def stage_archive(root: Path, values: Mapping[str, str], program: bytes, checkout: Path) -> Stage:
    """Lay out the archive."""
    local = {
        **values,
        "SBIN": "/usr/local/sbin",
        "EXAMPLES": f"/usr/local/share/doc/{NAME}/examples",
    }
    new = Stage(root, local)
    new.put(NAME, program, runs=True)
    for name in ("config.json", "waggle-agent.service", _RULES, "waggle-agent.8", "README"):
        new.fill(name, f"agent/{name}")
    for name in ("install.sh", "uninstall.sh"):
        new.fill(name, f"agent/{name}", runs=True)
    for name in _EXAMPLES:
        new.fill(f"examples/{name}", f"agent/{name}")
    new.fill("copyright", "agent/copyright")
    new.put("LICENSE", (checkout / "LICENSE").read_bytes())
    new.put("guest-agent.md", (checkout / "docs/guest-agent.md").read_bytes())
    new.settle()
    return new


def _stage_system(root: Path, values: Mapping[str, str], program: bytes, checkout: Path) -> Stage:
    new = Stage(root, {**values, "SBIN": "/usr/sbin", "EXAMPLES": f"/{_DOC}/examples"})
    new.put(f"usr/sbin/{NAME}", program, runs=True)
    new.fill("etc/waggle-agent/config.json", "agent/config.json")
    new.fill("usr/lib/systemd/system/waggle-agent.service", "agent/waggle-agent.service")
    new.fill(f"usr/lib/udev/rules.d/{_RULES}", f"agent/{_RULES}")
    new.fill("usr/share/man/man8/waggle-agent.8", "agent/waggle-agent.8")
    for name in _EXAMPLES:
        new.fill(f"{_DOC}/examples/{name}", f"agent/{name}")
    new.put(f"{_DOC}/guest-agent.md", (checkout / "docs/guest-agent.md").read_bytes())
    return new

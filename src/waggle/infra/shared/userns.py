# SPDX-License-Identifier: Apache-2.0
"""Whether this host lets an ordinary user have user namespaces, which building without root needs.

Called where mmdebstrap is run, and by the preflight checks. Reads settings only, tries nothing.
"""

from __future__ import annotations

from pathlib import Path

from waggle.shipped import document

NEXT_STEP = (
    "Run 'waggle setup' and 'waggle image build' as root, or allow them as "
    f'"Building without root" in {document("troubleshooting.md")} says.'
)


def refusal(uid: int, root: Path = Path("/")) -> str:
    """Say what keeps user `uid` from user namespaces for mmdebstrap; empty when nothing does.

    Ubuntu's AppArmor gives them only to programs with a profile. Its package has one for
    mmdebstrap, which a local file or an older package may lack.
    """
    if uid == 0:
        return ""
    settings = root / "proc/sys"
    if _number(settings / "user/max_user_namespaces") == 0:
        return "user.max_user_namespaces is 0"
    if _number(settings / "kernel/unprivileged_userns_clone") == 0:
        return "kernel.unprivileged_userns_clone is 0"
    profiles = root / "etc/apparmor.d"
    has_profile = (profiles / "mmdebstrap").exists() and not (
        profiles / "disable/mmdebstrap"
    ).exists()
    if _number(settings / "kernel/apparmor_restrict_unprivileged_userns") == 1 and not has_profile:
        return (
            "kernel.apparmor_restrict_unprivileged_userns is 1, and AppArmor has no profile for "
            "mmdebstrap"
        )
    return ""


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None

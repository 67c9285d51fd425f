# SPDX-License-Identifier: Apache-2.0
"""Preflight checks of programs and files: tools, kernel, kit, images, data directory, CA bundle.

Listed in `waggle.infra.host.doctor`. Reads only, but for a probe file in the data directory.
"""

from __future__ import annotations

import os
import shutil
import ssl
import tempfile
from pathlib import Path

from waggle.infra.host.preflight import GIB, CheckResult, Subject, existing, fail, ok, warn
from waggle.infra.host.requirements import building, missing
from waggle.infra.shared.confined import NEXT_STEP, refusal

_SETUP = "Run 'waggle setup'."
_LEAST_FREE = 1 * GIB
_GOOD_FREE = 5 * GIB


async def programs(_subject: Subject) -> CheckResult:
    """The programs that running an environment needs, without QEMU, which has its own check."""
    absent = [package for package in missing({"serve"}) if package.name != "QEMU"]
    if not absent:
        return ok("programs", "all found")
    detail = "; ".join(f"{package.name} is missing: it {package.why}" for package in absent)
    return fail("programs", detail, _SETUP)


async def build_programs(_subject: Subject) -> CheckResult:
    """The programs that building images needs; an environment runs without them."""
    absent = missing(building(is_root=os.geteuid() == 0))
    if not absent and (refused := refusal(os.geteuid())):
        return warn("build programs", f"no user namespaces: {refused}", NEXT_STEP)
    if not absent:
        return ok("build programs", "all found")
    detail = "; ".join(f"{package.name} is missing: it {package.why}" for package in absent)
    return warn("build programs", detail, "Run 'waggle setup' to be able to build images.")


async def kernel(subject: Subject) -> CheckResult:
    """The guest kernel is there."""
    return _file("kernel", subject.kernel)


async def kit(subject: Subject) -> CheckResult:
    """The guest kit is there."""
    return _file("guest kit", subject.kit)


def _file(name: str, path: Path) -> CheckResult:
    try:
        size = path.stat().st_size
    except OSError as error:
        return fail(name, f"{path}: {error.strerror}", _SETUP)
    if not path.is_file() or not size:
        return fail(name, f"{path} is not a file with content", f"Remove it. {_SETUP}")
    return ok(name, f"{path} ({size / 1e6:.0f} MB)")


async def images(subject: Subject) -> CheckResult:
    """The images of the runtimes are there, and built from what they would be built from now."""
    found = subject.images()
    absent = sorted(name for name, there in found.items() if not there)
    old = subject.outdated()
    if not absent and not old:
        return ok("images", ", ".join(sorted(found)) or "none configured")
    commands = [f"waggle image build {name}" for name in (*absent, *old)]
    mend = f"Run: {'; '.join(commands)}"
    parts: list[str] = []
    if absent:
        parts.append(f"missing: {', '.join(absent)}")
    if old:
        parts.append(f"built from an earlier definition or another archive: {', '.join(old)}")
    made = fail if absent and len(absent) == len(found) else warn
    return made("images", "; ".join(parts), mend)


async def data_directory(subject: Subject) -> CheckResult:
    """The data directory can be written and has space."""
    found = existing(subject.data_dir)
    name, mend = "data directory", "Give this user the directory, or set WAGGLE_DATA_DIR."
    try:
        with tempfile.TemporaryFile(dir=found) as probe:
            probe.write(b"waggle")
            probe.flush()
    except OSError as error:
        return fail(name, f"{found} cannot be written: {error.strerror}", mend)
    free = shutil.disk_usage(found).free
    detail = f"{subject.data_dir}, {free / GIB:.1f} GiB free"
    if free < _LEAST_FREE:
        return fail(name, detail, "Free some space, or set WAGGLE_DATA_DIR to a larger disk.")
    if free < _GOOD_FREE:
        return warn(name, detail, "Images and environments may fill it; have 5 GiB or more.")
    return ok(name, detail)


async def ca_bundle(subject: Subject) -> CheckResult:
    """The additional certificate authorities, when configured, are readable PEM."""
    if subject.ca_bundle is None:
        return ok("CA bundle", "none configured")
    mend = "Set WAGGLE_CA_BUNDLE to a readable PEM file with certificates."
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=subject.ca_bundle)
    except OSError as error:  # ssl.SSLError is one
        return fail("CA bundle", f"{subject.ca_bundle}: {error.strerror or error}", mend)
    count = len(context.get_ca_certs())
    if not count:
        return fail("CA bundle", f"{subject.ca_bundle} holds no CA certificate", mend)
    return ok("CA bundle", f"{subject.ca_bundle}, {count} certificates")

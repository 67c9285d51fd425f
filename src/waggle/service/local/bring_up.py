# SPDX-License-Identifier: Apache-2.0
"""Brings the machine of one environment up, and makes its identity.

Used by `start` and, for machines that are to be frozen, by `waggle template build`; the caller made
the directory and owns the result. A machine is resumed from a frozen one or from a template, else
booted. Its identity is the records of keys, host name, variables and certificates. Knows nothing of
SSH connections and clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import structlog

from waggle.domain.errors import BootFailed, GuestLost, ImageCorrupt
from waggle.domain.image import BootImage
from waggle.domain.machine import Hypervisor, Machine, MachineSpec, NetworkPolicy
from waggle.domain.programs import HOME
from waggle.infra.rootfs.machine_disks import (
    DRAWN_BYTES,
    HANG_UP,
    RENEWED,
    drawn_records,
    identity_records,
    pack,
)
from waggle.infra.shared.files import atomic_write
from waggle.infra.ssh import PROXY_PORT, EnvironmentKeys
from waggle.service.local.blueprint import Blueprint, Launcher, Scratch, StartedMachine
from waggle.service.local.frozen.moments import Freezing, Moment
from waggle.service.local.frozen.templates import NoTemplates, Templates
from waggle.tasks import stage

log = structlog.get_logger(__name__)


class LocalMachines:
    """Brings machines up: from a template if one fits, else by a boot."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        launcher: Launcher,
        scratch: Scratch,
        freezing: Freezing,
        templates: Templates | NoTemplates,
    ) -> None:
        self._hypervisor = hypervisor
        self._freezing = freezing
        self.launcher = launcher
        self._scratch = scratch
        self.templates = templates

    async def start(
        self, blueprint: Blueprint, moment: Moment | None = None, *, background: bool = False
    ) -> StartedMachine:
        """Return a machine whose guest is ready and has its identity; a copy of `moment` if given.

        In the `background` it yields to others; see `infra.shared.confined.come_forward`.

        The caller stops the machine and, once it is dead, releases the lease. If a template does
        not work, the machine boots. Raises BootFailed, GuestLost, NoPorts, SetupIncomplete,
        Unsupported or OSError.
        """
        if moment is not None:
            return await self._go_on(blueprint, moment, background)
        if (resumed := await self._from_template(blueprint, background)) is not None:
            return resumed
        booted = await self._boot(blueprint, background)
        self.templates.want(blueprint)
        return booted

    async def _from_template(self, blueprint: Blueprint, background: bool) -> StartedMachine | None:
        async with contextlib.AsyncExitStack() as stack:
            with stage("template"):
                found = await stack.enter_async_context(self.templates.moment(blueprint))
            if found is None:
                return None
            template = found.directory.name
            try:
                return replace(await self._go_on(blueprint, found, background), template=template)
            except (BootFailed, GuestLost) as error:
                log.warning("template_failed", template=template, error=str(error))
                self.templates.reject(template)
                for disk in (blueprint.disks.scratch, blueprint.disks.identity):
                    disk.unlink(missing_ok=True)
                return None

    async def _go_on(
        self, blueprint: Blueprint, moment: Moment, background: bool
    ) -> StartedMachine:
        disks = blueprint.disks
        with stage("disks"):
            await asyncio.to_thread(moment.copy_disks, disks.scratch, disks.identity)
        start = partial(self._renewed, moment, blueprint)
        return await self.launcher.launch(blueprint, start, background=background)

    async def _boot(self, blueprint: Blueprint, background: bool) -> StartedMachine:
        disks = blueprint.disks
        await self._scratch.make(blueprint.made_of.resources.disk_mib, disks.scratch)
        disks.identity.write_bytes(pack(blueprint.identity))
        boot = self._hypervisor.boot
        with stage("boot"):
            return await self.launcher.launch(blueprint, boot, background=background)

    async def _renewed(self, moment: Moment, blueprint: Blueprint, spec: MachineSpec) -> Machine:
        """Start a copy and give it its own identity. Raises BootFailed or GuestLost."""
        machine = await self._freezing.resume(spec, moment)
        try:
            with stage("renewal"):
                renewed = {name: blueprint.identity[name] for name in RENEWED}
                await machine.renew({**HANG_UP, **renewed})
        except BaseException:
            await machine.stop()
            raise
        return machine


DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TRUST_STORE = "/etc/ssl/certs/ca-certificates.crt"
OWN_CERTIFICATES = "/etc/ssl/certs/waggle-ca.pem"
OWN_NAMES = "localhost,127.0.0.1,127.0.1.1,::1,0.0.0.0"
"""Names that bypass the proxy, in a form that every program understands; `[::1]` would break httpx.
The kit adds the host name (kit/guest/image.c). Requests for them that reach the proxy all the same,
it connects in the guest (infra/net/guest_request.py)."""
_TRUST_VARIABLES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "NPM_CONFIG_CAFILE",
)


def guest_variables(
    image: Mapping[str, str], *, proxy_port: int | None, has_certificates: bool
) -> dict[str, str]:
    """Return the variables of every program in the guest; the image's win over presets. Pure.

    `proxy_port` is where the guest reaches the egress proxy on its loopback; None means that the
    policy allows no network. If the operator brings certificates, the usual variables name the
    trust store that they were added to. HOME, USER and LOGNAME are set in the guest, which alone
    knows the image's user (kit/guest/image.c).
    """
    path = image.get("PATH", DEFAULT_PATH)
    presets = {
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "DEBIAN_FRONTEND": "noninteractive",
        "PYTHONUNBUFFERED": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_BREAK_SYSTEM_PACKAGES": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "NPM_CONFIG_UPDATE_NOTIFIER": "false",
        "NPM_CONFIG_PREFIX": f"{HOME}/.local",
        "NODE_PATH": f"{HOME}/node_modules",
    }
    if proxy_port is not None:
        url = f"http://127.0.0.1:{proxy_port}"
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            presets[name] = url
        presets["no_proxy"] = presets["NO_PROXY"] = OWN_NAMES
        presets["NODE_USE_ENV_PROXY"] = "1"
    if has_certificates:
        presets |= dict.fromkeys(_TRUST_VARIABLES, TRUST_STORE)
        presets["NODE_EXTRA_CA_CERTS"] = OWN_CERTIFICATES
    path = f"{HOME}/.local/bin:{HOME}/node_modules/.bin:{path}"
    return presets | dict(image) | {"PATH": path}


NO_VARIABLES: Mapping[str, str] = MappingProxyType({})


def identity_of(
    image: BootImage,
    keys: EnvironmentKeys,
    hostname: str,
    network: NetworkPolicy,
    *,
    certificates: bytes,
    variables: Mapping[str, str] = NO_VARIABLES,
) -> Mapping[str, bytes]:
    """Return all records, with fresh random ones. Raises ImageCorrupt if no machine can hold them.

    `variables` are those of the environment, which win over the image's.
    """
    has_network = network is not NetworkPolicy.NONE
    told = guest_variables(
        image.variables,
        proxy_port=PROXY_PORT if has_network else None,
        has_certificates=bool(certificates),
    )
    try:
        records = identity_records(
            host_key=keys.host_key,
            authorized_keys=keys.authorized_keys,
            hostname=hostname,
            environment={**told, **variables},
            certificates=certificates,
            user=image.user,
            directory=image.directory,
            shell=image.shell,
        )
    except ValueError as error:
        raise ImageCorrupt(
            f"The image's configuration cannot be given to a machine: {error}.",
            hint="Choose another image, or make this one with fewer or shorter variables.",
        ) from error
    return {**records, **drawn_records(secrets.token_bytes(DRAWN_BYTES))}


def save_access(files: Path, keys: EnvironmentKeys, port: int) -> None:
    """Write what `waggle shell` needs to log in, readable for the server's user only."""
    atomic_write(files / "ssh_key", keys.client.export_private_key(), 0o600)
    known = f"[127.0.0.1]:{port} ".encode() + keys.host_public.export_public_key()
    atomic_write(files / "known_hosts", known, 0o600)

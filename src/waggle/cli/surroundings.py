# SPDX-License-Identifier: Apache-2.0
"""What a network behind a mirror or an intercepting proxy needs to be told, found on this host.

Used by the demo and the tests, which must install a package wherever they run. A server never
guesses like this: its operator sets WAGGLE_EGRESS_ALLOW_CIDRS and WAGGLE_CA_BUNDLE.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

from waggle.domain.errors import SetupIncomplete
from waggle.infra.net.policy import AddressPolicy
from waggle.infra.shared import debian

_BUNDLE_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


def surroundings(environ: Mapping[str, str]) -> dict[str, str]:
    """The settings that this network needs, without those that are set already."""
    found: dict[str, str] = {}
    networks = sorted({network for host in package_hosts() for network in _unusual(host)})
    if networks:
        found["WAGGLE_EGRESS_ALLOW_CIDRS"] = ",".join(networks)
    bundle = next((environ[name] for name in _BUNDLE_VARIABLES if environ.get(name)), None)
    if bundle and Path(bundle).is_file():
        found["WAGGLE_CA_BUNDLE"] = str(Path(bundle).resolve())
    return {name: value for name, value in found.items() if not environ.get(name)}


def package_hosts() -> set[str]:
    """The hosts that package managers here would ask: pip's own default index and apt's mirror."""
    hosts = {_pip_constant("netloc"), _pip_constant("file_storage_domain")} - {""}
    try:
        host = urlsplit(debian.mirror(None)).hostname
    except SetupIncomplete:
        host = None
    return hosts | {host} if host else hosts


def _pip_constant(name: str) -> str:
    """What pip has built in; empty where there is no pip, or one that keeps it elsewhere."""
    try:
        module = import_module("pip._internal.models.index")
    except ImportError:
        return ""
    return str(getattr(getattr(module, "PyPI", None), name, ""))


def _unusual(host: str) -> set[str]:
    """The host's addresses that are not public, as networks of one address each."""
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    addresses = {ipaddress.ip_address(str(answer[4][0])) for answer in answers}
    policy = AddressPolicy(())
    denied = {address for address in addresses if not policy.permits(address).allowed}
    return {f"{address}/{address.max_prefixlen}" for address in denied}

# SPDX-License-Identifier: Apache-2.0
"""The variables that all programs of a guest have. Pure.

`start` puts them into the identity of a machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network

from waggle.domain.programs import HOME

Blocks = Iterable[IPv4Network | IPv6Network]
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TRUST_STORE = "/etc/ssl/certs/ca-certificates.crt"
OWN_CERTIFICATES = "/etc/ssl/certs/waggle-ca.pem"
OWN_NAMES = "localhost,.localhost,127.0.0.1,127.0.1.1,::1,0.0.0.0,198.18.0.1"
"""Names that bypass the proxy, in a form that every program understands; `[::1]` would break httpx.
The kit adds the host name (kit/guest/image.c). The proxy connects requests for them that reach it
all the same in the guest (infra/net/guest_request.py)."""
LOOPBACK = ip_network("127.0.0.0/8")
"""All of it is the guest's own, unless the operator lets guests reach some of the host's."""
_TRUST_VARIABLES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "NPM_CONFIG_CAFILE",
)


def guest_variables(
    image: Mapping[str, str],
    *,
    proxy_port: int | None,
    has_certificates: bool,
    opened: Blocks = (),
) -> dict[str, str]:
    """Return the variables of every program in the guest; the image's win over presets. Pure.

    `proxy_port` is where the guest reaches the egress proxy on its loopback; None means that the
    policy allows no network. If the operator brings certificates, the usual variables name the
    trust store that they were added to. `opened` as in GuestParts. HOME, USER and LOGNAME are set
    in the guest, which alone knows the image's user (kit/guest/image.c).
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
        is_own = not any(block.version == 4 and block.overlaps(LOOPBACK) for block in opened)
        own = f"{OWN_NAMES},{LOOPBACK}" if is_own else OWN_NAMES
        presets["no_proxy"] = presets["NO_PROXY"] = own
        presets["NODE_USE_ENV_PROXY"] = "1"
    if has_certificates:
        presets |= dict.fromkeys(_TRUST_VARIABLES, TRUST_STORE)
        presets["NODE_EXTRA_CA_CERTS"] = OWN_CERTIFICATES
    path = f"{HOME}/.local/bin:{HOME}/node_modules/.bin:{path}"
    return presets | dict(image) | {"PATH": path}

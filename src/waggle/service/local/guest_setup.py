# SPDX-License-Identifier: Apache-2.0
"""What a guest is told at birth: its variables. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from waggle.domain.programs.execution import HOME

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TRUST_STORE = "/etc/ssl/certs/ca-certificates.crt"
OWN_CERTIFICATES = "/etc/ssl/certs/waggle-ca.pem"
OWN_NAMES = "localhost,127.0.0.1,127.0.1.1,::1,0.0.0.0"
"""Not for the proxy, in words that every program understands; `[::1]` would break httpx. The kit
adds the host name (kit/guest/image.c). What programs send to the
proxy all the same, it sends home (infra/net/guest_request.py)."""
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
    """The environment of every program in the guest; the image's own variables win over presets.

    `proxy_port` is where the guest reaches the egress proxy on its own loopback; None means that
    the policy allows no network. Where the operator brings certificates, the usual variables name
    the trust store that they were added to. HOME, USER and LOGNAME are set in the guest, which
    alone knows who the image's user is (kit/guest/image.c).
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

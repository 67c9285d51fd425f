# SPDX-License-Identifier: Apache-2.0
"""How programs that ignore the proxy variables are told of the proxy. Pure.

Used by `reach` once the kernel has counted that something tried to get out directly; what the
program said only decides which way is named.
"""

from __future__ import annotations

import re
from typing import Final

from waggle.domain.diagnosis.evidence import Evidence

_PROXY: Final = "127.0.0.1:3128"
_JAVA: Final = (
    "Java ignores the proxy variables: run java with -Dhttp.proxyHost=127.0.0.1 "
    "-Dhttp.proxyPort=3128 -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=3128, or set these in "
    "JAVA_TOOL_OPTIONS, which Maven and Gradle heed, too."
)
_NODE: Final = (
    "This Node.js, or what it uses, ignores the proxy variables: Node.js 24 heeds them "
    "(NODE_USE_ENV_PROXY=1 is set). With an older one install undici and call "
    "setGlobalDispatcher(new EnvHttpProxyAgent()) of it for fetch, and give https, ws and others "
    "an agent: new HttpsProxyAgent(process.env.https_proxy) of https-proxy-agent."
)
_WAYS: Final = tuple(
    (re.compile(pattern), advice)
    for pattern, advice in (
        (
            r"\baiohttp\b",
            "aiohttp ignores the proxy variables by default: "
            "aiohttp.ClientSession(trust_env=True) heeds them.",
        ),
        (
            r"\bhttpx\b|\brequests\b",
            "Leave trust_env on, so that the proxy variables count, or name the proxy: "
            f"http://{_PROXY}.",
        ),
        (
            r"net::ERR_|chrom(?:e|ium)|playwright|selenium|puppeteer",
            f'Name the proxy to the browser: launch(proxy={{"server": "http://{_PROXY}"}}) in '
            f"Playwright, --proxy-server=http://{_PROXY} elsewhere.",
        ),
        (
            r"\bgit://|port 9418|ssh: (?:Could not resolve|connect to)"
            r"|Permission denied \(publickey",
            "Clone over https:// in place of git:// or ssh, for example "
            "https://github.com/OWNER/NAME.git.",
        ),
        (
            r"\bjava\.(?:net|nio|io)\.|UnknownHostException|UnresolvedAddressException"
            r"|Exception in thread \"main\"",
            _JAVA,
        ),
        (r"fetch failed|\bundici\b|\bnode:|Node\.js v\d|ENOTFOUND|EAI_AGAIN", _NODE),
        (
            r"php_network|file_get_contents",
            "PHP's streams ignore the proxy variables: use its curl functions, or a stream context "
            f"with proxy tcp://{_PROXY}.",
        ),
        (
            r"psycopg|asyncpg|libpq|could not translate host name|pymysql|MySQL|redis|mongo"
            r"|sqlalchemy",
            "Databases cannot be reached from here: run one in the environment itself, or reach it "
            "over HTTPS.",
        ),
        (r"\bping: |bad address", "ping does not get out; curl -I https://HOST does."),
    )
)
_PROGRAMS: Final = {"java": _JAVA, "mvn": _JAVA, "gradle": _JAVA, "node": _NODE}
GENERAL: Final = (
    "Use HTTP or HTTPS through the proxy that http_proxy and https_proxy name; it also looks up "
    "names. Other protocols (SSH, databases, ping, DNS) do not get out."
)


def way_out(evidence: Evidence) -> str:
    """What helps this program to the proxy."""
    for pattern, advice in _WAYS:
        if pattern.search(evidence.said):
            return advice
    return _PROGRAMS.get(evidence.program.rpartition("/")[2], GENERAL)

# SPDX-License-Identifier: Apache-2.0
"""The attacks by name, in the order of the table, with descriptions. Pure data.

`assaults` has their code; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping

_SERVER = "an SSH server in its guest"
_PROGRAM = "a program in the place of the kit's `files`"

WHAT: Mapping[str, str] = {
    "lists": "bodies of 31 MiB, of `[],`",
    "four-of-lists": "the same, four at once",
    "nested-lists": "lists in each other, 190 deep, four at once",
    "objects": "`{},`, four at once",
    "numbers": "`1.5,`, four at once",
    "long-numbers": "numbers of 4,000 digits, four at once",
    "strings": "empty strings, four at once",
    "escapes": "one string of `\\u00e9`, four at once",
    "quotes": 'one string of `\\"`, four at once',
    "wide-characters": "one string that takes four bytes a character, four at once",
    "spaces": "spaces between two brackets, four at once",
    "a-list-in-a-string": "JSON in a string, four at once",
    "unfinished-bodies": "eight bodies without their last byte, sent again when cut",
    "idle-connections": "1,000 connections without a token that send nothing",
    "idle-requests": "1,000 connections without a token that send one request",
    "deep-archive": "uploads of 865 kB with 19,000 names of 98 components, three at once",
    "zip-of-many-entries": "uploads of a zip of 200,000 entries, three at once",
    "zip-of-long-extra-fields": "uploads of a zip whose directory is 10 MiB of extra fields",
    "packed-window": "uploads of 32 kB of zstd that looks back 64 MiB, three at once",
    "forwarded-opens": f"{_SERVER} opens `forwarded-tcpip` channels without end",
    "unknown-opens": f"{_SERVER} opens channels of no known kind",
    "global-requests": f"{_SERVER} sends global requests",
    "unknown-packets": f"{_SERVER} sends packets of no known kind",
    "unknown-packets-unread": "the same, and reads no answer",
    "debug": f"{_SERVER} sends DEBUG",
    "ignore": f"{_SERVER} sends IGNORE",
    "one-byte-data": f"{_SERVER} sends output byte by byte",
    "channel-requests": f"{_SERVER} sends requests of no known kind to a channel",
    "channel-requests-unread": "the same, and reads no answer",
    "rekey-without-end": f"{_SERVER} begins a key exchange and never finishes it",
    "sftp-without-end": f"{_SERVER} has directories without an end",
    "sftp-nobody-asked": f"{_SERVER} sends SFTP answers without a request",
    "deep-names": f"{_PROGRAM} packs 98 components in each name, without end",
    "tiny-records": f"{_PROGRAM} packs records of 10 bytes without end",
    "found-without-end": f"{_PROGRAM} finds without end",
    "failed-without-end": f"{_PROGRAM} fails to unpack without end",
    "names-never-answered": "four guests with 8 names each that no name server answers",
    "denied-hosts": "64 threads in a guest ask for a host that is denied",
    "exposed-port": "a server behind an exposed port never ends its answers: heads, interim ones, "
    "chunks of a byte, bodies; of 60 clients half never read",
    "ended-tls": "24 threads in a guest, and the host of a secret, flood TLS that the proxy ends: "
    "HTTP/2 frames, resets, huge heads, gzip bombs, answers without an end",
}
"""Owner A's attacks; in `names-never-answered`, B executes a request for a good name."""

# SPDX-License-Identifier: Apache-2.0
"""Write docs/configuration.md from the settings: `./task docs`. A test compares the two."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from waggle.config import SECTIONS, accepted, fields, variable
from waggle.config.parsers import Section

TARGET = Path(__file__).with_name("configuration.md")

HEAD = """\
<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Written by docs/generate_configuration.py from src/waggle/config; do not edit. -->

# Configuration

waggle is configured by environment variables alone. They are read once, at the start; `waggle
doctor` and every other command read the same ones. An empty value counts as not set. A variable
that starts with `WAGGLE_` and is not listed here, and a value that cannot be used, stop the start
with a line that says which and what is accepted. Nothing falls back silently.

```sh
WAGGLE_LISTEN_ADDR=127.0.0.1:9000 WAGGLE_DEFAULT_MEMORY_MB=1024 ./task run
```
"""

_COMPUTED = {
    "data_dir": "`/var/lib/waggle` as root, else `waggle` in `$XDG_DATA_HOME` (`~/.local/share`)",
    "image_cache_dir": "`cache` in `WAGGLE_DATA_DIR`",
}


def page() -> str:
    """Return the whole page."""
    return HEAD + "".join(_section(section) for section in SECTIONS)


def _section(section: type[Section]) -> str:
    title = (section.__doc__ or "").strip().rstrip(".")
    return f"\n## {title}\n\n" + "\n".join(_entries(section))


def _entries(section: type[Section]) -> Iterator[str]:
    for name in section.__annotations__:
        info = fields()[name]
        default = _COMPUTED.get(name) or _default(str(info.default))
        yield f"### `{variable(name)}`\n"
        yield f"{info.description}\n"
        yield f"- Default: {default}".replace(": \n", ":\n")
        yield f"- Accepts: {accepted(name)}\n"


def _default(text: str) -> str:
    if "\n" in text:
        return "\n\n  ```text\n" + textwrap.indent(text, "  ") + "\n  ```\n"
    return f"`{text}`" if text else "nothing"


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")

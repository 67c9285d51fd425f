# SPDX-License-Identifier: Apache-2.0
"""Write docs/tools.md from the registered MCP tools: `./task docs`. A test compares the two."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mcp.server.mcpserver.prompts import Prompt
from mcp_types import ToolAnnotations
from tool_notes import EXAMPLES, NOTES

from waggle.app.values import execution_limits
from waggle.config import load
from waggle.domain.files.search import ALWAYS_SKIPPED
from waggle.domain.programs.display import MAX_RECORDS, MAX_STREAM_BYTES
from waggle.domain.toolset import TOOLS, Toolset
from waggle.mcp.context import Services
from waggle.mcp.offered import NOT_FOUND_BEFORE_2026
from waggle.mcp.prompts import PROMPTS
from waggle.mcp.resources.listing import ENVIRONMENTS_LISTED, EXECUTIONS_LISTED, TEMPLATES
from waggle.mcp.resources.read import PAGE_META_KEY
from waggle.mcp.resources.subscriptions import MAX_SUBSCRIPTIONS
from waggle.mcp.results.displays import (
    DISPLAYS_META_KEY,
    MAX_LISTED,
    MAX_PICTURES,
    MAX_PIXELS,
)
from waggle.mcp.results.images import MAX_IMAGES
from waggle.mcp.results.pictures import MAX_IMAGE_BYTES
from waggle.mcp.schema.tool import ADDED_BY_CLIENTS, OfferedTool
from waggle.mcp.surfaces import instructions
from waggle.mcp.tools import all_tools
from waggle.service.environments.networks import NetworkService
from waggle.service.environments.ports import PortService
from waggle.service.environments.service import EnvironmentService
from waggle.service.environments.snapshots import SnapshotService
from waggle.service.files import FilesystemService
from waggle.service.files.trees import TreeService
from waggle.service.files.watches import MAX_OF_ENVIRONMENT, MAX_OF_OWNER, WatchService
from waggle.service.idempotency import Repeats
from waggle.service.programs.execution import ExecutionService
from waggle.service.programs.jobs import JobService

TARGET = Path(__file__).with_name("tools.md")

HEAD = """\
<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Written by docs/generate_tools.py from src/waggle/mcp; do not edit. -->

# Tools

An agent gets ten tools over MCP, unless [the operator or the client](clients.md#toolsets)
chose more. Most work needs two or three of them:

```text
TRANSCRIPT
```

CORE
## Of all tools

Times are RFC 3339, sizes bytes; limits are those of the default settings. Name an environment
by its id, by the first six characters or more of that, or by its name.

Every tool answers with text and with structured content, with the same information, since
clients show a model the one or the other. A field without information is left out of the structured
content: read an absent one as null, zero, false, empty, or the default that is documented here.
A result with a picture is text, the picture and a link to it, without structured content, which
would hide the picture in some clients; so the tools that show pictures publish no output schema.

A mistake or a failure in the machine is a result with `isError`: its text has the cause and
the next step, and its `_meta` has `waggle/error` with `code`, `message`, `hint` and `retryable`.
Where there was output before, the structured content has it, with the error as `error`.

Long results are cut: the output of a program in the middle, to `WAGGLE_OUTPUT_LIMIT` characters or
`max_output`, a file after a page of whole lines, a list after its first entries. The result says
how much is missing and which call shows it.

Parameters without `*` may be left out or `null`. Names that clients add (ADDED) are ignored,
`environmentId` is `environment_id`, and any other unknown parameter is refused with the one that it
resembles. Published schemas have only words that the APIs of all models take; more is accepted than
they say: lists also as one text or as JSON in a text, `env` and `files` also as objects, and
parameters marked with † are not published.

All of it is in an agent's context, so it is short: name, description and input schema of the core
are at most 1,650 tokens (o200k_base, every tool as compact JSON), of all tools 5,000; with output
schemas 3,000 and 9,000. A test counts them. Clients may keep the lists for an hour.

The server sends these instructions to a client with all tools; other clients get the parts on
theirs:

```text
INSTRUCTIONS
```

## More tools

MORE"""

TRANSCRIPT = """\
You    What is the 10,000th prime? Write it out in words, too.

Agent  execute {"code": "primes = [n for n in range(2, ..."}
         environment_id: aa7aa9ce-... (new, data; give it to continue there)
         104729
       install_packages {"environment_id": "aa7aa9", "packages": ["num2words"]}
         Successfully installed docopt-0.6.2 num2words-0.5.14
       execute {"environment_id": "aa7aa9", "code": "from num2words import ..."}
         one hundred and four thousand, seven hundred and twenty-nine
       destroy_environment {"environment_id": "aa7aa9"}
         Environment aa7aa9ce-... (data-aa7aa9ce) is destroyed.

       It is 104,729: one hundred and four thousand, seven hundred and twenty-nine."""

SKIPPED = ", ".join(f"`{name}`" for name in ALWAYS_SKIPPED)
RESOURCES = f"""\
## Resources

Environments, output, files and archives can be read as resources, in parts that every client
accepts. The `_meta` of a part has `{PAGE_META_KEY}` with `offset`, `next_offset` (null at the end)
and `size`, for output the `status` of the execution, for an archive its `sha256`. `resources/list`
has the caller's environments and the newest {EXECUTIONS_LISTED} executions in them, with
{ENVIRONMENTS_LISTED} environments a page.
`id`, `n` and `stream` of the templates can be completed.

Where the operator does not allow all tools, resources follow: environments need a tool of
`environments`, files `read_file`, archives `download_files`, and output one of `execution`, `jobs`
and `packages`. Other resources are in no template, list or completion, and reading them is
refused.

Environments, output, lists of displays, files and directories can be subscribed to: a 2025 session
by `resources/subscribe`, 2026-07-28 by `subscriptions/listen`, at most {MAX_SUBSCRIPTIONS} of them.
A client is notified of one resource at most once a second, and when a program ends. A session that
has read the list is also notified when environments are created, fail and end.

A file or directory changes whoever changes it, a program in the environment included, and a
directory with everything below it, but for {SKIPPED},
what links lead to, other file systems, and what is beyond the nearest 256 directories. Nothing is
missed after the answer to the subscription. At most {MAX_OF_ENVIRONMENT} paths of an environment,
and {MAX_OF_OWNER} of an owner, are watched at once; one more is refused. A watched environment is
paused when idle as any other. After a pause, or when a path that was gone is back, clients are
notified, and the watch continues.

A resource that is missing, or another owner's, is an error with code {NOT_FOUND_BEFORE_2026}, in
2026-07-28 -32602; `data` has `waggle/error` as with tools.

Images are recognized by their content. `read_file` shows a png, jpeg, gif, webp or svg of at most
{MAX_IMAGE_BYTES:,} bytes as an image. `execute` and `run_command` show up to {MAX_IMAGES} that the
program wrote into its working directory, once it has ended: by default when its text names an image
file (or `savefig`), or with `images`. Of a program that outlives its call, `read_job` (with
`wait_seconds`) and `wait_job` show them. With `files`, a link to its resource follows an image.

What a program displays (pictures, tables, charts, HTML) is among its output, at its place: as text,
or as a line that says what it is. The first {MAX_PICTURES} pictures with at most {MAX_PIXELS:,}
pixels that have room are shown, unless `images` is false. Where not all is shown, `displays_uri`
lists them, and `charts` has the short ones of figures that are not shown. For clients that draw,
`_meta` has `{DISPLAYS_META_KEY}`: index, media types, URI and a short chart of the first
{MAX_LISTED}. `displays/1` has all representations by media type, `displays/1/text/html` one of
them, and `displays/1/chart` the data of a chart. Displays are kept with the output of their job,
at most {MAX_RECORDS:,} of them and {MAX_STREAM_BYTES:,} bytes of records.

Output is shown as a terminal shows it: without colours, a line that was rewritten in its last
state, and lines that repeat once with a count. Pages of `read_job` and resources have every byte.
"""

Schema = Mapping[str, Any]


def default_tools() -> list[OfferedTool]:
    """Return the tools of a server with default settings, which can be described, not called."""
    settings = load({}, is_root=False)
    services = Services(
        environments=cast("EnvironmentService", None),
        snapshots=cast("SnapshotService", None),
        execution=cast("ExecutionService", None),
        filesystem=cast("FilesystemService", None),
        repeats=cast("Repeats", None),
        jobs=cast("JobService", None),
        trees=cast("TreeService", None),
        watches=cast("WatchService", None),
        ports=cast("PortService", None),
        networks=cast("NetworkService", None),
        execution_limits=execution_limits(settings),
    )
    return all_tools(services)


def page() -> str:
    """Return the whole page."""
    tools = default_tools()
    core = [tool for tool in tools if tool.name in TOOLS[Toolset.CORE]]
    parts = {
        "TRANSCRIPT": TRANSCRIPT,
        "CORE": overview(core),
        "ADDED": ", ".join(f"`{name}`" for name in sorted(ADDED_BY_CLIENTS)),
        "INSTRUCTIONS": instructions([tool.name for tool in tools]),
        "MORE": overview([tool for tool in tools if tool not in core]),
    }
    head = HEAD
    for name, text in parts.items():
        head = head.replace(name, text, 1)
    sections = "".join(f"\n{section(tool)}" for tool in tools)
    return f"{head}{sections}\n{resources()}\n{prompts()}"


def overview(tools: Sequence[OfferedTool]) -> str:
    """Return the table of all tools; parameters that must be given are bold."""
    lines = ["| Tool | Parameters (required ones in bold) | What it does |", "|---|---|---|"]
    for tool in tools:
        required: list[str] = tool.parameters.get("required", [])
        names = [f"**`{name}`**" if name in required else f"`{name}`"
                 for name in tool.parameters["properties"]]  # fmt: skip
        about = re.split(r"(?<=[.:])\s", tool.description, maxsplit=1)[0].rstrip(".:")
        lines.append(f"| [`{tool.name}`](#{tool.name}) | {', '.join(names)} | {about} |")
    return "\n".join(lines) + "\n"


def prompts() -> str:
    """Return the part about prompts."""
    lines = [
        "# Prompts\n",
        "A person picks one in a client; it tells the agent how to use the tools for one kind",
        "of work, and is offered only with the tools that it names. Arguments with `*` must be",
        "given.\n",
        "| Prompt | Arguments | |",
        "|---|---|---|",
    ]
    for name, (function, _) in PROMPTS.items():
        prompt = Prompt.from_function(function, name=name)
        given = [f"`{taken.name}`{' *' * bool(taken.required)}: {taken.description}"
                 for taken in prompt.arguments or []]  # fmt: skip
        lines.append(f"| `{name}` | {' '.join(given)} | {prompt.description} |")
    return "\n".join(lines) + "\n"


def resources() -> str:
    """Return the part of the page about resources."""
    rows = "\n".join(f"| `{one.uri_template}` | {one.description} |" for one in TEMPLATES)
    return f"{RESOURCES}\n| Template | |\n|---|---|\n{rows}\n"


def section(tool: OfferedTool) -> str:
    """Return one tool's part of the page."""
    lines = [f"## `{tool.name}`\n", f"{tool.description}\n", f"{_hints(tool)}\n"]
    if tool.name in NOTES:
        lines.append(f"{NOTES[tool.name]}\n")
    if examples := EXAMPLES.get(tool.name):
        lines.append("\n".join(f"```json\n{json.dumps(one)}\n```" for one in examples) + "\n")
    lines.append(_table("Parameter", _marked(tool), tool.accepted))
    lines.append(_table("Result", tool.result_schema, tool.result_schema))
    return "\n".join(line for line in lines if line)


def _marked(tool: OfferedTool) -> Schema:
    """Return the parameters, those marked that are not published."""
    named = tool.accepted["properties"].items()
    mark = {True: "", False: "† "}
    return {
        **tool.accepted,
        "properties": {
            name: {
                **about,
                "description": mark[name in tool.parameters["properties"]]
                + about.get("description", ""),
            }
            for name, about in named
        },
    }


def _hints(tool: OfferedTool) -> str:
    hints = tool.annotations or ToolAnnotations()
    words = [
        "only reads" if hints.read_only_hint else "changes the environment",
        *(["may overwrite or delete"] if hints.destructive_hint else []),
        *(["may be repeated safely"] if hints.idempotent_hint else []),
        *(["may reach the internet"] if hints.open_world_hint else []),
    ]
    return f"*{tool.title}: {', '.join(words)}.*"


def _table(title: str, schema: Schema, root: Schema) -> str:
    rows = list(_rows(schema, root, ""))
    if not rows:
        return ""
    return "\n".join([f"| {title} | Type | |", "|---|---|---|", *rows]) + "\n"


def _rows(schema: Schema, root: Schema, prefix: str) -> Iterator[str]:
    required: list[str] = schema.get("required", []) if _is_input(root) else []
    for name, about in schema.get("properties", {}).items():
        mark = " *" if name in required else ""
        words = about.get("description", _of_items(about))
        yield f"| `{prefix}{name}`{mark} | {_type(about)} | {words} |"
        yield from _rows(_resolved(about.get("items", {}), root), root, f"{name}[].")
        if not prefix:
            yield from _rows(about, root, f"{name}.")
        for variant in about.get("anyOf", []):
            yield from _rows(_resolved(variant, root), root, f"{name}.")


def _of_items(about: Schema) -> str:
    """Return the description of the items of a list that have no schema of their own."""
    items = about.get("items", {})
    return "" if "properties" in items else str(items.get("description", ""))


def _is_input(schema: Schema) -> bool:
    """Whether a schema describes parameters."""
    return "title" not in schema


def _resolved(about: Schema, root: Schema) -> Schema:
    """Return the schema itself, or the definition that it refers to."""
    reference = about.get("$ref", "")
    return root["$defs"][reference.rpartition("/")[2]] if reference else about


def _type(about: Schema) -> str:
    """Return a property's type in a few words."""
    variants = [v for v in about.get("anyOf", [about]) if v.get("type") != "null"]
    return " or ".join(_kind(variant) for variant in variants)


def _kind(about: Schema) -> str:
    if "enum" in about:
        return ", ".join(f"`{value}`" for value in about["enum"])
    if "const" in about:
        return f"`{about['const']}`"
    if "$ref" in about:
        return "object"
    if about["type"] == "array":
        items = about["items"]
        return (
            "list" if "$ref" in items or items["type"] == "object" else f"list of {_kind(items)}s"
        )
    low, high = about.get("minimum"), about.get("maximum")
    if high is not None:
        return f"{about['type']}, {low} to {high:,}"
    kind = about["type"]
    kinds = cast("list[str]", kind) if isinstance(kind, list) else [str(kind)]
    return " or ".join(kind for kind in kinds if kind != "null")


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")

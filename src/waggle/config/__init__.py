# SPDX-License-Identifier: Apache-2.0
"""The settings: every `WAGGLE_*` variable, checked at the start, never changed afterwards.

The only module that reads the process environment. Called by `waggle.cli` and `waggle.app`, which
pass plain values down. A variable that is unknown or unusable prevents the start; there is no
silent fallback. In a section, the docstring is the heading in docs/configuration.md, a field is a
variable (`default_cpus` is `WAGGLE_DEFAULT_CPUS`), and a default is what an operator would write.
"""

from __future__ import annotations

import difflib
import getpass
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, Self, get_args, get_origin

from pydantic import ValidationError, model_validator
from pydantic.fields import FieldInfo

from waggle.config.environments import (
    EnvironmentSection,
    MachineSection,
    NetworkSection,
    default_beyond,
    named_rules,
    usual_network,
)
from waggle.config.images import ImageSection, RuntimeSection
from waggle.config.lists import WrongItem
from waggle.config.parsers import Accepts, Section, format_duration
from waggle.config.places import StorageSection
from waggle.config.server import (
    AccessSection,
    ExecutionSection,
    ObservationSection,
    ServerSection,
    access_conflicts,
    observation_conflicts,
)
from waggle.domain.errors import SettingsInvalid
from waggle.domain.network import Network
from waggle.domain.programs.job import MAX_WAIT_SECONDS
from waggle.domain.programs.runtime import RuntimeName
from waggle.shipped import document

SECTIONS: tuple[type[Section], ...] = (
    ServerSection,
    AccessSection,
    ObservationSection,
    EnvironmentSection,
    ExecutionSection,
    RuntimeSection,
    ImageSection,
    NetworkSection,
    MachineSection,
    StorageSection,
)
"""In the order of docs/configuration.md."""
PREFIX = "WAGGLE_"
_OURS = re.compile(f"{PREFIX}(?!TEST_)")
_SHOWN = 80
_HINT = f"Every variable is described in {document('configuration.md')}."
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY")
_USER_INFO = re.compile(r"(?<=://)[^/@\s]*@")


class Settings(
    ObservationSection,
    AccessSection,
    StorageSection,
    MachineSection,
    NetworkSection,
    ImageSection,
    RuntimeSection,
    ExecutionSection,
    EnvironmentSection,
    ServerSection,
):
    """All settings, immutable. Made by `load`; tests may construct it with keyword arguments."""

    @property
    def usual_network(self) -> Network:
        """What an environment may reach unless its creator says, within the maximum."""
        return usual_network(self, self.max_network)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        problems = list(conflicts(self))
        if problems:
            raise ValueError("\n".join(problems))
        return self


def conflicts(settings: Settings) -> Iterator[str]:
    """Yield a line for each pair of settings that cannot be used together."""
    if settings.ssh_port_base >= settings.ssh_port_max:
        yield (
            f"WAGGLE_SSH_PORT_BASE={settings.ssh_port_base} must be below "
            f"WAGGLE_SSH_PORT_MAX={settings.ssh_port_max}."
        )
    if settings.default_exec_timeout > settings.max_exec_timeout:
        yield (
            f"WAGGLE_DEFAULT_EXEC_TIMEOUT={format_duration(settings.default_exec_timeout)} must "
            f"not be above WAGGLE_MAX_EXEC_TIMEOUT={format_duration(settings.max_exec_timeout)}."
        )
    if settings.default_exec_timeout.total_seconds() > MAX_WAIT_SECONDS:
        yield (
            f"WAGGLE_DEFAULT_EXEC_TIMEOUT={format_duration(settings.default_exec_timeout)} must "
            f"not be above {MAX_WAIT_SECONDS / 60:g}m: no call waits longer."
        )
    if (warm := sum(number for _, number in settings.warm_pool)) > settings.max_environments:
        yield (
            f"WAGGLE_WARM_POOL keeps {warm} machines, and "
            f"WAGGLE_MAX_ENVIRONMENTS={settings.max_environments} must not be below that."
        )
    yield from network_conflicts(settings)
    yield from access_conflicts(settings)
    yield from observation_conflicts(settings)
    exposed = not settings.listen_addr.is_loopback and not settings.allow_remote
    if exposed and not settings.authenticates:
        yield (
            f"WAGGLE_LISTEN_ADDR={settings.listen_addr} can be reached from other machines without "
            "authentication: use a loopback address, set WAGGLE_AUTH_TOKENS_FILE or "
            "WAGGLE_OAUTH_ISSUER, or set WAGGLE_ALLOW_REMOTE=true behind a proxy that checks who "
            "calls."
        )


def network_conflicts(settings: Settings) -> Iterator[str]:
    """Yield a line for a default beyond the maximum, and for names of rules without a file."""
    if over := default_beyond(settings, settings.max_network):
        items = ", ".join(over)
        yield (
            f"WAGGLE_DEFAULT_NETWORK={shown('', str(settings.default_network))} allows "
            f"{items if len(items) <= _SHOWN else f'{items[:_SHOWN]}...'}, which "
            f"WAGGLE_MAX_NETWORK={shown('', str(settings.max_network))} refuses. Leave that out, "
            "allow it there, or leave WAGGLE_DEFAULT_NETWORK unset: then it is what the maximum is."
        )
    if settings.network_rules is not None:
        return
    for setting in ("default_network", "max_network"):
        for name in sorted(named_rules(getattr(settings, setting))):
            yield f"{variable(setting)} names @{name}, and no WAGGLE_NETWORK_RULES has it."


def load(
    environ: Mapping[str, str] | None = None,
    *,
    is_root: bool | None = None,
    listen: str | None = None,
) -> Settings:
    """Read the settings from `environ` (the process environment when not given).

    An empty value counts as not set, and WAGGLE_TEST_* are for tests. `listen` replaces
    WAGGLE_LISTEN_ADDR. Raises SettingsInvalid with one line per variable that is unknown or
    unusable; secrets are not repeated.
    """
    environ = os.environ if environ is None else environ
    if listen is not None:
        environ = {**environ, variable("listen_addr"): listen or " "}
    given = {name: value for name, value in environ.items() if _OURS.match(name) and value}
    problems = [_unknown(name) for name in sorted(given) if _field_name(name) not in fields()]
    values = {_field_name(name): value for name, value in given.items()}
    values = {name: value for name, value in values.items() if name in fields()}
    root = os.geteuid() == 0 if is_root is None else is_root
    values.setdefault("data_dir", str(default_data_dir(environ, is_root=root)))
    values.setdefault("image_cache_dir", values["data_dir"].rstrip("/") + "/cache")
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems += _explain(error, values, given)
    else:
        if not problems:
            return settings
    raise SettingsInvalid("\n".join(problems), hint=_HINT)


def process_environment() -> dict[str, str]:
    """Return a copy of the process environment, for commands that start other programs."""
    return dict(os.environ)


def name_user() -> None:
    """Give this process's user a name if it has none, as under a container's random user id.

    asyncssh needs one before it connects, and takes it only from the process's user. Idempotent.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid{os.geteuid()}"


def default_data_dir(environ: Mapping[str, str], *, is_root: bool) -> Path:
    """Return the data directory for when WAGGLE_DATA_DIR is not set."""
    if is_root:
        return Path("/var/lib/waggle")
    base = environ.get("XDG_DATA_HOME", "")
    if base.startswith("/"):  # the specification says to ignore relative ones
        return Path(base) / "waggle"
    return Path(environ.get("HOME") or Path.home()) / ".local/share/waggle"


def fields() -> Mapping[str, FieldInfo]:
    """Return every setting by its field name."""
    return Settings.model_fields


def variable(field: str) -> str:
    """Return the variable of a field: `default_cpus` is `WAGGLE_DEFAULT_CPUS`."""
    return PREFIX + field.upper()


def accepted(field: str) -> str:
    """Return in words what a setting accepts."""
    info = fields()[field]
    for item in info.metadata:
        if isinstance(item, Accepts):
            return item.words
    if get_origin(info.annotation) is Literal:
        return "one of " + ", ".join(get_args(info.annotation))
    if info.annotation is RuntimeName:
        return "one of " + ", ".join(RuntimeName)
    if info.annotation is bool:
        return "true or false"
    low, high = (_bound(info, name) for name in ("ge", "le"))
    return f"a whole number from {low} to {high}"


def is_secret(name: str) -> bool:
    """Whether a variable's value must not be shown or stored, judging by its name."""
    return _SECRET.search(name) is not None


def shown(name: str, value: str) -> str:
    """Return a value fit for a message: no secrets, no control characters, not too long."""
    if is_secret(name):
        return "'***'"
    value = _USER_INFO.sub("***@", value)
    return ascii(value if len(value) <= _SHOWN else value[:_SHOWN] + "...")


def _bound(info: FieldInfo, name: str) -> int:
    return next(getattr(item, name) for item in info.metadata if hasattr(item, name))


def _field_name(name: str) -> str:
    return name.removeprefix(PREFIX).lower() if name.isupper() else name


def _unknown(name: str) -> str:
    near = nearest(name)
    advice = f" Did you mean {near}?" if near else ""
    return f"{ascii(name)[1:-1][:_SHOWN]} is not a setting of waggle.{advice}"


def nearest(name: str) -> str | None:
    """Return the variable that `name` is a likely misspelling of, or None."""
    # Compared without the prefix, which would make all short names similar.
    known = [field.upper() for field in fields()]
    near = difflib.get_close_matches(name.upper().removeprefix(PREFIX), known, n=1, cutoff=0.65)
    return f"{PREFIX}{near[0]}" if near else None


def _explain(
    error: ValidationError, values: Mapping[str, str], given: Mapping[str, str]
) -> list[str]:
    lines: list[str] = []
    for detail in error.errors(include_url=False, include_input=False):
        if not detail["loc"]:
            lines += detail["msg"].removeprefix("Value error, ").splitlines()
            continue
        field = str(detail["loc"][0])
        if field == "image_cache_dir" and variable(field) not in given:
            continue  # derived from data_dir, which has its own line
        name = variable(field)
        wrong = _wrong_item(name, values[field], detail.get("ctx", {}).get("error"))
        line = f"{name}={shown(name, values[field])} cannot be used: {wrong}expected "
        line += f"{accepted(field)}."
        if line not in lines:
            lines.append(line)
    return lines


def _wrong_item(name: str, value: str, error: object) -> str:
    """Return the item of a list that is wrong and why, for the middle of a line."""
    if not isinstance(error, WrongItem):
        return ""
    item = "it" if error.item == value.strip() else shown(name, error.item)
    why = _USER_INFO.sub("***@", error.why)
    return f"{item} {why}; " if error.item else f"{why}; "

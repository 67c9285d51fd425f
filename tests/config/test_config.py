# SPDX-License-Identifier: Apache-2.0
"""Settings: defaults, parsers, and one line of error for every unusable value."""

from __future__ import annotations

import importlib.util
import os
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from waggle.config import (
    SECTIONS,
    Settings,
    accepted,
    default_data_dir,
    fields,
    load,
    name_user,
    nearest,
    variable,
)
from waggle.config.lists import parse_cidrs, parse_ports, split_words
from waggle.config.parsers import (
    ListenAddress,
    format_duration,
    parse_duration,
    parse_listen_address,
    parse_rate,
)
from waggle.domain.errors import SettingsInvalid
from waggle.domain.hypervisor import HypervisorName
from waggle.domain.network import PUBLIC_NETWORK
from waggle.domain.programs.runtime import RuntimeName
from waggle.domain.toolset import Toolset

ROOT = Path(__file__).parents[2]


def settings(**values: str) -> Settings:
    return load({f"WAGGLE_{name}": value for name, value in values.items()}, is_root=True)


def problems(**values: str) -> list[str]:
    with pytest.raises(SettingsInvalid) as caught:
        settings(**values)
    assert "docs/configuration.md" in caught.value.hint
    return caught.value.message.splitlines()


class TestToolsets:
    def test_toolsets_are_given_by_name_or_all_at_once(self) -> None:
        assert settings(TOOLSETS="ALL").toolsets == frozenset(Toolset)
        assert settings(TOOLSETS="core,full").toolsets == frozenset(Toolset)
        assert settings().toolsets == {Toolset.CORE}
        some = settings(TOOLSETS="run, files").toolsets
        assert some == {Toolset.RUN, Toolset.FILES}

    @pytest.mark.parametrize("text", ["runs", "run,al", ",", "execute"])
    def test_an_unknown_toolset_refuses_the_start(self, text: str) -> None:
        (line,) = problems(TOOLSETS=text)
        assert "environments, execution, jobs" in line


class TestWarmPool:
    def test_a_warm_pool_is_runtimes_with_numbers(self) -> None:
        assert settings().warm_pool == ()
        pool = settings(WARM_POOL="python:2, Node:1").warm_pool
        assert pool == ((RuntimeName.PYTHON, 2), (RuntimeName.NODE, 1))

    @pytest.mark.parametrize(
        "text", ["ruby:1", "python", "python:0", "python:-1", "python:2,python:1", "1:python", ","]
    )
    def test_an_unusable_warm_pool_refuses_the_start(self, text: str) -> None:
        (line,) = problems(WARM_POOL=text)
        assert "runtimes (python, node, shell, data) and numbers of machines" in line

    def test_warm_machines_count_as_environments(self) -> None:
        (line,) = problems(WARM_POOL="python:2,node:1", MAX_ENVIRONMENTS="2")
        assert line == (
            "WAGGLE_WARM_POOL keeps 3 machines, and WAGGLE_MAX_ENVIRONMENTS=2 must not be below "
            "that."
        )


class TestHypervisors:
    def test_they_are_named_in_order_or_chosen_by_waggle(self) -> None:
        assert settings().hypervisor == settings(HYPERVISOR="Auto").hypervisor == ()
        assert settings(HYPERVISOR="qemu, KRUN").hypervisor == ("qemu", "krun")
        assert settings(HYPERVISOR="qemu").hypervisor == (HypervisorName.QEMU,)


class TestDefaults:
    def test_defaults_are_those_of_the_go_original(self) -> None:
        default = settings()
        assert str(default.listen_addr) == "127.0.0.1:8080"
        assert (default.max_environments, default.default_cpus) == (10, 1)
        assert (default.default_memory_mb, default.default_timeout_min) == (512, 30)
        assert default.boot_timeout == timedelta(minutes=2)
        assert default.default_exec_timeout == timedelta(seconds=30)
        assert default.max_exec_timeout == timedelta(hours=1)
        assert default.reaper_interval == timedelta(minutes=1)
        assert (default.ssh_port_base, default.ssh_port_max) == (10000, 11000)
        assert default.image_cache_max_age == timedelta(hours=168)

    def test_defaults_are_safe(self) -> None:
        default = settings()
        assert default.listen_addr.is_loopback
        assert not default.allow_remote
        assert default.default_network == PUBLIC_NETWORK
        assert default.egress_allow_cidrs == ()
        assert default.max_network == PUBLIC_NETWORK
        assert 443 in default.egress_ports
        assert 25 not in default.egress_ports
        assert default.public_ports == {80, 443}
        assert settings(EGRESS_PORTS="80,8080").public_ports == {80, 8080}
        assert default.ca_bundle is None

    def test_the_data_directory_is_one_that_the_user_may_write(self) -> None:
        assert settings().data_dir == Path("/var/lib/waggle")
        environ = {"HOME": "/home/u"}
        assert default_data_dir(environ, is_root=False) == Path("/home/u/.local/share/waggle")
        environ["XDG_DATA_HOME"] = "/data"
        assert load(environ, is_root=False).data_dir == Path("/data/waggle")
        environ["XDG_DATA_HOME"] = "relative"
        assert default_data_dir(environ, is_root=False) == Path("/home/u/.local/share/waggle")

    def test_the_cache_follows_the_data_directory(self) -> None:
        assert settings(DATA_DIR="/srv/w").image_cache_dir == Path("/srv/w/cache")
        own = settings(DATA_DIR="/srv/w", IMAGE_CACHE_DIR="/fast")
        assert own.image_cache_dir == Path("/fast")

    def test_settings_are_immutable(self) -> None:
        with pytest.raises(ValidationError):
            settings().max_environments = 99  # pyright: ignore[reportAttributeAccessIssue]

    def test_the_process_environment_is_read_when_none_is_given(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WAGGLE_MAX_ENVIRONMENTS", "3")
        assert load().max_environments == 3

    def test_a_user_id_without_a_name_gets_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOGNAME", "somebody")
        name_user()
        assert os.environ["LOGNAME"] == "somebody"

    def test_an_empty_value_counts_as_not_set(self) -> None:
        assert settings(MAX_ENVIRONMENTS="", CA_BUNDLE="").max_environments == 10

    def test_variables_of_the_tests_are_ignored(self) -> None:
        assert settings(TEST_FIRECRACKER="/bin/false") == settings()


class TestErrors:
    def test_an_unknown_variable_is_refused_with_a_suggestion(self) -> None:
        assert problems(DEFALT_CPUS="1") == [
            "WAGGLE_DEFALT_CPUS is not a setting of waggle. Did you mean WAGGLE_DEFAULT_CPUS?"
        ]
        assert problems(default_cpus="1")[0].endswith("Did you mean WAGGLE_DEFAULT_CPUS?")

    def test_an_unknown_variable_does_not_show_its_value(self) -> None:
        assert problems(QQQQ="hunter2") == ["WAGGLE_QQQQ is not a setting of waggle."]

    def test_one_line_for_each_bad_variable(self) -> None:
        lines = problems(DEFAULT_CPUS="17", BOOT_TIMEOUT="120", ACCEL="hvf", NOPE="1")
        assert sorted(lines) == [
            "WAGGLE_ACCEL='hvf' cannot be used: expected one of auto, kvm, tcg.",
            "WAGGLE_BOOT_TIMEOUT='120' cannot be used: "
            "expected a duration such as 250ms, 90s, 5m, 1h30m or 7d.",
            "WAGGLE_DEFAULT_CPUS='17' cannot be used: expected a whole number from 1 to 16.",
            "WAGGLE_NOPE is not a setting of waggle.",
        ]

    def test_control_characters_and_long_values_are_kept_out_of_the_log(self) -> None:
        (line,) = problems(LOG_LEVEL="a\n\x1b[31m" + "x" * 5000)
        assert line.isprintable()
        assert len(line) < 250

    def test_a_password_in_a_url_is_masked(self) -> None:
        (line,) = problems(DEBIAN_MIRROR="ftp://user:hunter2@mirror/x")
        assert "hunter2" not in line
        assert "***@mirror" in line

    @pytest.mark.parametrize(
        "name,value",
        [
            ("DEFAULT_CPUS", "0"),
            ("DEFAULT_CPUS", "-1"),
            ("DEFAULT_CPUS", "1.0"),
            ("DEFAULT_CPUS", " 1"),
            ("DEFAULT_MEMORY_MB", "127"),
            ("DEFAULT_TIMEOUT_MIN", "0"),
            ("DEFAULT_TIMEOUT_MIN", "61"),
            ("OUTPUT_LIMIT", "200001"),
            ("SSH_PORT_BASE", "80"),
            ("SSH_PORT_MAX", "65537"),
            ("VM_UID_BASE", "1000"),
            ("VM_UID_BASE", "4294967295"),
            ("DEFAULT_NETWORK", "private"),
            ("ALLOW_REMOTE", "maybe"),
            ("MAX_NETWORK", "example"),
            ("NETWORK_RULES", "rules.toml"),
            ("EGRESS_ALLOW_CIDRS", "10.0.0.1/8"),
            ("EGRESS_PORTS", "80,,443"),
            ("EGRESS_PORTS", "0"),
            ("CA_BUNDLE", "relative.pem"),
            ("DATA_DIR", "~/waggle"),
            ("ALLOWED_HOSTS", "a b"),
            ("ALLOWED_ORIGINS", "agents.example"),
            ("IMAGE_PYTHON", "-v"),
            ("QEMU_BINARY", "qemu -s"),
            ("RUNTIME_NODE_EXEC_COMMAND", "node"),
            ("RUNTIME_NODE_EXEC_COMMAND", "sh -c 'node {file}'"),
            ("RUNTIME_NODE_EXEC_COMMAND", "node '{file}"),
            ("RUNTIME_NODE_INSTALL_COMMAND", "npm install {file}"),
        ],
    )
    def test_values_out_of_range_are_refused(self, name: str, value: str) -> None:
        (line,) = problems(**{name: value})
        assert line.startswith(f"WAGGLE_{name}=")
        assert "expected" in line

    @pytest.mark.parametrize(
        "name,value,wrong,right",
        [
            (
                "ALLOWED_HOSTS",
                "a.example,*.b.example",
                "'*.b.example' is no host",
                "waggle.example",
            ),
            ("ALLOWED_HOSTS", "::1", "it is an IPv6 address without brackets", "[fd00::1]:8443"),
            ("ALLOWED_HOSTS", "a.example, https://b/", "'https://b/' is a URL", "waggle.example"),
            ("ALLOWED_HOSTS", "a.example:8443,b:x", "'b:x' is no host", "waggle.example"),
            (
                "ALLOWED_ORIGINS",
                "https://a,https://b/",
                "'https://b/' is no origin",
                "https://agents",
            ),
            ("TOOLSETS", "core,flies", "'flies' is no toolset", "core,files"),
            ("TOOLSETS_ALLOWED", "core flies", "it is no toolset", "core,files"),
            ("WARM_POOL", "python:2,ruby:1", "'ruby:1' begins with no runtime", "python:2,node:1"),
            ("WARM_POOL", "python:2,node", "'node' has no number", "python:2,node:1"),
            ("WARM_POOL", "node:2,node:1", "'node:1' names its runtime again", "python:2,node:1"),
            ("HYPERVISOR", "qemu,xen", "'xen' is no hypervisor", "krun"),
            ("HYPERVISOR", "qemu,auto", "'auto' goes with no other name", "`auto`, or some of"),
            ("HYPERVISOR", "QEMU,krun,qemu", "'qemu' is there twice", "in order"),
            ("HYPERVISOR", "qemu,", "a comma with nothing", "qemu"),
            ("HYPERVISOR", " ", "it names no hypervisor", "krun"),
            ("QEMU_OLDER", "/q,/opt/a b", "'/opt/a b' is no program", "/opt/qemu-9/bin"),
            ("DEFAULT_NETWORK", "public, exampel", "'exampel' cannot be", "example.org:443"),
            ("MAX_NETWORK", "public,ask", "a network is only one of", "example.org:443"),
            ("MAX_NETWORK", "https://u:pw@a.example/", "'https://***@a.example/'", "example.org"),
            ("EGRESS_ALLOW_CIDRS", "fd00::/8,10.0.0.1/8", "network 10.0.0.0/8", "10.1.0.0/16"),
            ("EGRESS_ALLOW_CIDRS", "10.0.0.0/8,a.example", "'a.example' is no net", "10.1.0.0/16"),
            ("EGRESS_PORTS", f"{'443,' * 40}http", "'http' is no port from 1", "22,80,443"),
            ("EGRESS_PORTS", "80,,443", "a comma with nothing", "22,80,443"),
            ("EGRESS_PORTS", " ", "it has no port", "22,80,443"),
            ("ALLOWED_IMAGES", "a/*,!b", "'!b' is no reference", "registry.example/team/*"),
            (
                "INSECURE_REGISTRIES",
                "a.example,b/c",
                "'b/c' is no registry",
                "registry.example:5000",
            ),
            (
                "REGISTRY_MIRRORS",
                "a.example=b.example,c",
                "'c' names no mirror",
                "=mirror.example/",
            ),
            ("REGISTRY_MIRRORS", "a.example=b:0", "it has no host[:port]", "=mirror.example/"),
            ("REGISTRY_MIRRORS", "https://a=b", "is no registry before =; write hosts", "=mirror."),
        ],
    )
    def test_the_wrong_item_of_a_list_is_named(
        self, name: str, value: str, wrong: str, right: str
    ) -> None:
        (line,) = problems(**{name: value})
        assert line.startswith(f"WAGGLE_{name}='")
        assert wrong in line
        assert right in line.partition("; expected ")[2]
        assert "pw" not in line

    def test_every_list_is_among_those(self) -> None:
        lists = {name for name in fields() if "commas" in accepted(name)}
        items = "allowed_hosts allowed_origins toolsets toolsets_allowed qemu_older max_network"
        more = "default_network egress_allow_cidrs egress_ports allowed_images"
        assert lists == {
            *items.split(),
            *more.split(),
            *("insecure_registries", "registry_mirrors", "hypervisor"),
        }


class TestTogether:
    def test_an_empty_port_range_is_refused(self) -> None:
        (line,) = problems(SSH_PORT_BASE="11000")
        assert line == "WAGGLE_SSH_PORT_BASE=11000 must be below WAGGLE_SSH_PORT_MAX=11000."
        assert settings(SSH_PORT_BASE="65535", SSH_PORT_MAX="65536").ssh_port_max == 65536

    def test_a_default_time_limit_above_the_longest_is_refused(self) -> None:
        (line,) = problems(DEFAULT_EXEC_TIMEOUT="2m", MAX_EXEC_TIMEOUT="1m")
        assert line == (
            "WAGGLE_DEFAULT_EXEC_TIMEOUT=2m must not be above WAGGLE_MAX_EXEC_TIMEOUT=1m."
        )

    def test_a_default_time_limit_above_five_minutes_is_refused(self) -> None:
        (line,) = problems(DEFAULT_EXEC_TIMEOUT="6m")
        assert line == "WAGGLE_DEFAULT_EXEC_TIMEOUT=6m must not be above 5m: no call waits longer."

    @pytest.mark.parametrize("address", ["0.0.0.0:80", "[::]:80", "10.0.0.1:80", "box.example:80"])
    def test_an_address_beyond_loopback_needs_permission(self, address: str) -> None:
        (line,) = problems(LISTEN_ADDR=address)
        assert "WAGGLE_ALLOW_REMOTE=true" in line
        assert not settings(LISTEN_ADDR=address, ALLOW_REMOTE="true").listen_addr.is_loopback

    @pytest.mark.parametrize("address", ["127.0.0.1:0", "127.8.9.1:80", "[::1]:80", "localhost:80"])
    def test_loopback_is_always_allowed(self, address: str) -> None:
        assert str(settings(LISTEN_ADDR=address).listen_addr) == address

    @pytest.mark.parametrize(
        "most, usual", [("none", "none"), ("example.org, @packages", "@packages, example.org")]
    )
    def test_a_built_in_default_is_narrowed_to_the_maximum(self, most: str, usual: str) -> None:
        narrow = settings(MAX_NETWORK=most)
        assert str(narrow.usual_network) == usual
        assert narrow.default_network == PUBLIC_NETWORK
        assert settings(MAX_NETWORK=most, DEFAULT_NETWORK="none").usual_network.is_none
        assert settings(MAX_NETWORK="public, 10.1.2.3:5432").usual_network == PUBLIC_NETWORK

    def test_a_default_that_is_set_beyond_the_maximum_is_refused(self) -> None:
        (line,) = problems(MAX_NETWORK="example.org", DEFAULT_NETWORK="public, other.example")
        assert line == (
            "WAGGLE_DEFAULT_NETWORK='public, other.example' allows public, other.example, which "
            "WAGGLE_MAX_NETWORK='example.org' refuses. Leave that out, allow it there, or leave "
            "WAGGLE_DEFAULT_NETWORK unset: then it is what the maximum is."
        )
        (line,) = problems(MAX_NETWORK="none", DEFAULT_NETWORK="@git", NETWORK_RULES="/r.toml")
        assert line.startswith("WAGGLE_DEFAULT_NETWORK='@git' allows @git, which")


class TestParsers:
    @pytest.mark.parametrize(
        "text,milliseconds",
        [
            ("250ms", 250),
            ("90s", 90_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("168h", 604_800_000),
            ("7d12h", 648_000_000),
        ],
    )
    def test_durations_are_parsed(self, text: str, milliseconds: int) -> None:
        assert parse_duration(text) == timedelta(milliseconds=milliseconds)

    @pytest.mark.parametrize(
        "text", ["", "0s", "5", "5 m", "-5m", "m", "5m1h", "1.5h", "5M", "5m\n", "٣s"]
    )
    def test_a_malformed_duration_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="duration"):
            parse_duration(text)

    @pytest.mark.parametrize(
        "text,rate",
        [("0", 0), ("16384", 16_384), ("16k", 16_384), ("10M", 10_485_760), ("2G", 2_147_483_648)],
    )
    def test_rates_are_parsed(self, text: str, rate: int) -> None:
        assert settings(EGRESS_RATE=text).egress_rate == parse_rate(text) == rate

    @pytest.mark.parametrize("text", ["", "1", "15K", "10MB", "10M/s", "-1", "1.5M", " 1M", "٣M"])
    def test_a_malformed_rate_or_one_that_is_a_slip_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="rate"):
            parse_rate(text)

    @given(st.integers(min_value=1, max_value=10**12))
    def test_a_formatted_duration_parses_to_the_same_value(self, milliseconds: int) -> None:
        value = timedelta(milliseconds=milliseconds)
        assert parse_duration(format_duration(value)) == value

    @given(st.ip_addresses(), st.integers(min_value=0, max_value=65535))
    def test_a_formatted_address_parses_to_the_same_value(self, host: object, port: int) -> None:
        address = ListenAddress(str(host), port)
        assert parse_listen_address(str(address)) == address

    @pytest.mark.parametrize(
        "text",
        [
            ":80",
            "80",
            "host",
            "host:",
            "host:65536",
            "host:-1",
            "::1:80",
            "[::1]",
            "[127.0.0.1]:80",
            "1.2.3:80",
            "1.2.3.4.5:80",
            "a b:80",
            "http://h:80",
            "-h:80",
            "h:٣",
        ],
    )
    def test_a_malformed_address_is_refused(self, text: str) -> None:
        (line,) = problems(LISTEN_ADDR=text)
        assert "expected host:port" in line

    @given(st.text())
    def test_parsers_raise_only_value_error(self, text: str) -> None:
        for parse in (
            *(parse_duration, parse_rate, parse_listen_address, parse_cidrs, parse_ports),
            split_words,
        ):
            try:
                parse(text)
            except ValueError:
                continue

    def test_lists_are_separated_by_commas(self) -> None:
        assert split_words(" a, b ,c") == ("a", "b", "c")
        assert parse_cidrs("10.0.0.0/8, fd00::/8") == (
            ip_network("10.0.0.0/8"),
            ip_network("fd00::/8"),
        )
        assert parse_ports("443,8443") == (443, 8443)
        hosts = settings(ALLOWED_HOSTS="agents.example:*, [::1]:8080").allowed_hosts
        assert hosts == ("agents.example:*", "[::1]:8080")


class TestDocumentation:
    def test_every_setting_has_a_description_and_its_accepted_values(self) -> None:
        for name, info in fields().items():
            assert info.description, name
            assert info.description.endswith("."), name
            assert accepted(name), name

    def test_every_setting_is_in_exactly_one_section(self) -> None:
        named = [name for section in SECTIONS for name in section.__annotations__]
        assert sorted(named) == sorted(fields())

    def test_the_configuration_page_is_up_to_date(self) -> None:
        path = ROOT / "docs" / "generate_configuration.py"
        spec = importlib.util.spec_from_file_location("generate_configuration", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
        assert text == module.page(), "run ./task docs"
        assert all(f"`{variable(name)}`" in text for name in fields())


class TestAccess:
    """Settings of access, and which of them need others."""

    OAUTH: ClassVar = {"OAUTH_ISSUER": "https://i.test", "OAUTH_AUDIENCE": "https://w.test/mcp"}

    def test_authentication_is_off_by_default(self) -> None:
        default = settings()
        assert not default.authenticates
        assert (default.max_environments_per_owner, default.max_calls_per_minute) == (0, 0)
        assert default.metrics
        assert default.audit_log is None
        assert not default.audit_code

    def test_an_address_beyond_loopback_needs_authentication_or_permission(self) -> None:
        (line,) = problems(LISTEN_ADDR="0.0.0.0:80")
        assert "WAGGLE_AUTH_TOKENS_FILE" in line
        for more in ({"AUTH_TOKENS_FILE": "/t"}, self.OAUTH, {"ALLOW_REMOTE": "true"}):
            assert not settings(LISTEN_ADDR="0.0.0.0:80", **more).listen_addr.is_loopback

    def test_an_issuer_needs_an_audience(self) -> None:
        assert "WAGGLE_OAUTH_AUDIENCE" in problems(OAUTH_ISSUER="https://i.test")[0]

    def test_oauth_needs_a_public_url_unless_the_audience_is_one(self) -> None:
        oauth = {**self.OAUTH, "OAUTH_AUDIENCE": "api://waggle"}
        assert "WAGGLE_PUBLIC_URL" in problems(**oauth)[0]
        both = settings(**oauth, PUBLIC_URL="https://w.test/mcp")
        assert both.resource_url == "https://w.test/mcp"
        assert settings(**self.OAUTH).resource_url == "https://w.test/mcp"

    def test_a_setting_without_effect_is_refused(self) -> None:
        (line,) = problems(OAUTH_SCOPE="waggle")
        assert line == "WAGGLE_OAUTH_SCOPE has no effect without WAGGLE_OAUTH_ISSUER."
        (line,) = problems(AUDIT_CODE="true")
        assert line == "WAGGLE_AUDIT_CODE has no effect without WAGGLE_AUDIT_LOG."
        assert settings(AUDIT_CODE="true", AUDIT_LOG="-").audit_code

    @pytest.mark.parametrize(
        "url",
        [
            "http://i.test",
            "https://",
            "https://u:p@i.test",
            "https://i.test/?a=b",
            "https://i.test/#a",
            'https://i.test/"',
            "https://i.test/ x",
            "ftp://i.test",
            "i.test",
            "https://i.test:99999",
        ],
    )
    def test_unusable_issuer_urls_are_refused(self, url: str) -> None:
        (line,) = problems(OAUTH_ISSUER=url, OAUTH_AUDIENCE="https://w.test/mcp")
        assert line.startswith("WAGGLE_OAUTH_ISSUER=")
        assert "u:p" not in line

    @pytest.mark.parametrize(
        "url", ["https://i.test", "https://i.test/a/", "http://127.0.0.1:8/x", "http://[::1]:8"]
    )
    def test_https_and_loopback_issuer_urls_are_accepted(self, url: str) -> None:
        assert settings(OAUTH_ISSUER=url, OAUTH_AUDIENCE="https://w.test").oauth_issuer == url

    def test_the_token_is_never_shown(self) -> None:
        given = settings(TOKEN="wgl_hunter2")
        assert given.token.get_secret_value() == "wgl_hunter2"
        assert "hunter2" not in repr(given) + str(given)

    def test_the_audit_log_is_a_dash_or_an_absolute_path(self) -> None:
        assert settings(AUDIT_LOG="-").audit_log == "-"
        assert settings(AUDIT_LOG="/a").audit_log == Path("/a")
        assert "WAGGLE_AUDIT_LOG='a'" in problems(AUDIT_LOG="a")[0]


def test_a_listen_argument_overrides_the_variable() -> None:
    environ = {"WAGGLE_LISTEN_ADDR": "127.0.0.1:1", "HOME": "/home/x"}
    assert str(load(environ, listen="[::1]:9").listen_addr) == "[::1]:9"
    assert str(load(environ).listen_addr) == "127.0.0.1:1"
    with pytest.raises(SettingsInvalid, match="WAGGLE_LISTEN_ADDR=' ' cannot be used"):
        load(environ, listen="")


def test_the_nearest_variable_is_suggested() -> None:
    assert nearest("max_enviroments") == "WAGGLE_MAX_ENVIRONMENTS"
    assert nearest("xyzzy") is None

# SPDX-License-Identifier: Apache-2.0
"""The variables that every program in a guest gets."""

from __future__ import annotations

from ipaddress import ip_network

from waggle.service.local.variables import DEFAULT_PATH, TRUST_STORE, guest_variables


def test_an_image_without_variables_gets_the_defaults() -> None:
    given = guest_variables({}, proxy_port=None, has_certificates=False)
    assert given["PATH"].endswith(DEFAULT_PATH)
    assert given["PATH"].startswith("/home/sandbox/.local/bin:")
    assert given["NPM_CONFIG_PREFIX"] == "/home/sandbox/.local"  # PATH includes its programs
    assert given["TERM"] == "xterm-256color", "clear, tput and top ask for one"
    assert not [name for name in given if "proxy" in name.lower()]
    assert TRUST_STORE not in given.values()


def test_image_variables_override_presets_but_installed_programs_come_first() -> None:
    image = {"LANG": "de_DE", "PATH": "/opt/bin", "OWN": "x"}
    given = guest_variables(image, proxy_port=None, has_certificates=False)
    assert (given["LANG"], given["OWN"]) == ("de_DE", "x")
    assert given["PATH"].startswith("/home/sandbox/.local/bin:")
    assert given["PATH"].endswith(":/opt/bin")
    assert DEFAULT_PATH not in given["PATH"]


def test_the_proxy_is_at_the_loopback_address_of_the_guest() -> None:
    given = guest_variables({}, proxy_port=3128, has_certificates=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        assert given[name] == "http://127.0.0.1:3128"
    assert "127.0.0.1" in given["no_proxy"]


def test_common_programs_use_the_certificates_of_the_operator() -> None:
    given = guest_variables({}, proxy_port=None, has_certificates=True)
    for name in ("SSL_CERT_FILE", "PIP_CERT", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        assert given[name] == TRUST_STORE
    assert given["NODE_EXTRA_CA_CERTS"].endswith(".pem")


def test_programs_know_every_name_of_their_own_machine() -> None:
    given = guest_variables({}, proxy_port=3128, has_certificates=False)
    names = {"localhost", ".localhost", "127.0.0.1", "127.0.0.0/8", "::1", "0.0.0.0", "198.18.0.1"}  # noqa: S104
    assert names <= set(given["no_proxy"].split(","))
    assert given["NO_PROXY"] == given["no_proxy"]


def test_a_loopback_range_that_the_operator_opens_is_not_the_guests_own() -> None:
    opened = [ip_network("127.0.0.2/32")]
    given = guest_variables({}, proxy_port=3128, has_certificates=False, opened=opened)
    assert "127.0.0.0/8" not in given["no_proxy"]
    assert "127.0.0.1" in given["no_proxy"].split(",")

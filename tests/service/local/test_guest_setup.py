# SPDX-License-Identifier: Apache-2.0
"""The variables that every program in a guest gets."""

from __future__ import annotations

from waggle.service.local.bring_up import DEFAULT_PATH, TRUST_STORE, guest_variables


def test_an_image_that_says_nothing() -> None:
    given = guest_variables({}, proxy_port=None, has_certificates=False)
    assert given["PATH"].endswith(DEFAULT_PATH)
    assert given["PATH"].startswith("/home/sandbox/.local/bin:")
    assert given["NPM_CONFIG_PREFIX"] == "/home/sandbox/.local"  # its programs are in PATH
    assert given["TERM"] == "xterm-256color", "clear, tput and top ask for one"
    assert not [name for name in given if "proxy" in name.lower()]
    assert TRUST_STORE not in given.values()


def test_the_image_wins_over_presets_but_what_is_installed_is_found_first() -> None:
    image = {"LANG": "de_DE", "PATH": "/opt/bin", "OWN": "x"}
    given = guest_variables(image, proxy_port=None, has_certificates=False)
    assert (given["LANG"], given["OWN"]) == ("de_DE", "x")
    assert given["PATH"].startswith("/home/sandbox/.local/bin:")
    assert given["PATH"].endswith(":/opt/bin")
    assert DEFAULT_PATH not in given["PATH"]


def test_the_way_out_is_the_guests_own_loopback() -> None:
    given = guest_variables({}, proxy_port=3128, has_certificates=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        assert given[name] == "http://127.0.0.1:3128"
    assert "127.0.0.1" in given["no_proxy"]


def test_the_operators_certificates_are_known_to_the_usual_programs() -> None:
    given = guest_variables({}, proxy_port=None, has_certificates=True)
    for name in ("SSL_CERT_FILE", "PIP_CERT", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        assert given[name] == TRUST_STORE
    assert given["NODE_EXTRA_CA_CERTS"].endswith(".pem")

# SPDX-License-Identifier: Apache-2.0
"""Diagnoses from what failing programs really print, with the next step for the image at hand."""

from __future__ import annotations

import errno
import re
from dataclasses import replace

import pytest
from tests.domain.evidence import DEBIAN, diagnosis_of, failed

from waggle.domain.diagnosis import Listener, Module
from waggle.domain.diagnosis.lacking import missing_command
from waggle.domain.diagnosis.packages import PACKAGE_OF, WITHOUT
from waggle.domain.diagnosis.rules import diagnose
from waggle.domain.network import NO_NETWORK
from waggle.domain.programs import GuestUser
from waggle.domain.programs.runtime import RuntimeName

BARE = frozenset({"python3"})
ALPINE = frozenset({"apk"})


@pytest.mark.parametrize(
    "said, name",
    [
        ("bash: line 1: ps: command not found", "ps"),
        ("/bin/bash: line 12: pkill: command not found\nmore", "pkill"),
        ("sh: 1: unzip: not found", "unzip"),
        ("/tmp/.waggle-7f/code.sh: 3: g++: not found", "g++"),
        ("./x.sh: line 3: foo-bar: command not found", "foo-bar"),
        ("sh: ps: not found", "ps"),
        ("zsh:1: command not found: rg", "rg"),
        ("/usr/bin/env: \u2018node\u2019: No such file or directory", "node"),
        ("env: 'python': No such file or directory", "python"),
        ("sudo: apt: command not found", "apt"),
        ("timeout: failed to run command \u2018nmap\u2019: No such file or directory", "nmap"),
        ("xargs: jq: No such file or directory", "jq"),
        ("make: gcc: No such file or directory\nmake: *** [x] Error 127", "gcc"),
        ("error: command 'gcc' failed: No such file or directory", "gcc"),
        ("error: command '/usr/bin/x86_64-linux-gnu-gcc' failed: No such file or directory",
         "x86_64-linux-gnu-gcc"),
        ("Error: spawn git ENOENT\n    at ChildProcess", "git"),
        ('exec: "gcc": executable file not found in $PATH', "gcc"),
        ("error: linker `cc` not found", "cc"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'ffmpeg'", "ffmpeg"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'data.csv'", None),
        ("checking for gcc... not found", None),
        ("bash: line 1: ./x.sh: No such file or directory", None),
        ("bash: line 1: $'a\\033[0m': command not found", None),
        ("", None),
    ],
)  # fmt: skip
def test_the_missing_command_is_read_from_the_output(said: str, name: str | None) -> None:
    assert missing_command(said) == name


@pytest.mark.parametrize(
    "name, have, runtime, words",
    [
        ("ps", DEBIAN, "python", ("sudo apt-get update && sudo apt-get install -y procps",)),
        ("ps", DEBIAN - {"sudo"}, "node", ("apt-get install -y procps with user \"root\"",)),
        ("ps", DEBIAN, "shell", ('install_packages with packages "procps"',)),
        ("ps", ALPINE, "shell", ('apk add procps with user "root"',)),
        ("xz", ALPINE, "shell", ("apk add xz ",)),
        ("ps", BARE, "python", ("no package manager", "read /proc")),
        ("ps", None, "python", ("Install procps with the image's package manager",)),
        ("pkill", DEBIAN, "python", ("procps", "read_job")),
        ("unzip", BARE, "python", ("python3 -m zipfile -e",)),
        ("sudo", BARE, "python", ('leave sudo out: user "root".',)),
        ("apt", ALPINE, "shell", ("The package manager here is apk",)),
        ("apt-get", BARE, "python", ("no package manager",)),
        ("python", DEBIAN, "python", ("called python3 here",)),
        ("pytest", DEBIAN, "python", ('install_packages with packages "pytest"',)),
        ("pytest", DEBIAN, "shell", ("python3 -m pip install pytest",)),
        ("tsc", DEBIAN, "node", ('install_packages with packages "typescript"',)),
        ("tsc", DEBIAN, "python", ('runtime "node"',)),
        ("node", DEBIAN, "python", ('runtime "node" has it', "nodejs")),
        ("systemctl", DEBIAN, "shell", ("no systemd",)),
        ("frobnicate", DEBIAN, "shell", ("Check the name and PATH",)),
    ],
)  # fmt: skip
def test_a_missing_command_is_diagnosed_for_the_image(
    name: str, have: frozenset[str] | None, runtime: str, words: tuple[str, ...]
) -> None:
    found = diagnosis_of(failed(have=have, runtime=RuntimeName(runtime), command=name))
    assert (found.code, name in found.cause) == ("command_not_found", True)
    for word in words:
        assert word in found.next_step


def test_a_missing_command_is_diagnosed_in_a_pipeline_that_succeeded() -> None:
    assert diagnosis_of(failed(exit_code=0, command="ps")).code == "command_not_found"
    assert diagnose(failed("sh: 1: ps: not found", exit_code=0)) is None


def test_a_program_that_the_launcher_did_not_find() -> None:
    lacking = failed(program="git")
    lacking = replace(lacking, record=replace(lacking.record, exec_error=errno.ENOENT))
    assert "apt-get install -y git" in diagnosis_of(lacking).next_step
    assert "no file ./x" in diagnosis_of(replace(lacking, program="./x")).cause


@pytest.mark.parametrize("have", [BARE, ALPINE, frozenset[str]()])
@pytest.mark.parametrize("runtime", list(RuntimeName))
def test_the_next_step_names_only_tools_that_the_image_has(
    have: frozenset[str], runtime: RuntimeName
) -> None:
    for name in sorted({*PACKAGE_OF, *WITHOUT, "sudo", "apt", "pytest", "tsc"} - {"visudo"}):
        step = diagnosis_of(failed(have=have, command=name, runtime=runtime)).next_step
        assert step
        for tool in ("apt-get", "apk", "dnf", "uv", "ss", "sudo"):
            named = re.search(rf"(?<![\w-]){tool} (?!out)", step)
            assert tool in have or not named, (name, step)
        if "python3" not in have and name not in ("python3", "python"):
            assert "python3 -" not in step


def test_without_a_network_the_next_step_installs_nothing() -> None:
    for command in ("ps", "pytest"):
        step = diagnosis_of(failed(command=command, network=NO_NETWORK)).next_step
        assert "network 'public'" in step
        assert "apt-get" not in step


@pytest.mark.parametrize(
    "module, words",
    [
        (
            Module(RuntimeName.PYTHON, "cv2"),
            'install_packages with packages "opencv-python-headless"; or run',
        ),
        (Module(RuntimeName.PYTHON, "PIL.Image"), '"pillow"'),
        (Module(RuntimeName.PYTHON, "google.cloud.storage"), '"google-cloud-storage"'),
        (Module(RuntimeName.PYTHON, "tkinter"), "apt-get install -y python3-tk"),
        (Module(RuntimeName.PYTHON, "left.right"), '"left"'),
        (Module(RuntimeName.NODE, "lodash/fp"), 'runtime "node"'),
        (Module(RuntimeName.NODE, "@scope/name/x"), 'runtime "node"'),
    ],
)  # fmt: skip
def test_the_next_step_names_the_package_of_a_module(module: Module, words: str) -> None:
    assert words in diagnosis_of(failed(missing=module)).next_step


@pytest.mark.parametrize(
    "said, code, words",
    [
        ("ImportError: libGL.so.1: cannot open shared object file: No such file or directory",
         "library_not_found", "install -y libgl1"),
        ("x: error while loading shared libraries: libnss3.so: cannot open shared object file: "
         "No such file or directory", "library_not_found", "libnss3"),
        ("Error loading shared library libstdc++.so.6: No such file or directory (needed by x)",
         "library_not_found", "libstdc++6"),
        ("fatal error: Python.h: No such file or directory", "library_not_found", "python3-dev"),
        ("  Error: pg_config executable not found.\n\n  pg_config is required to build psycopg2 "
         "from source.", "build_failed", "psycopg2-binary"),
        ("Exception: Can not find valid pkg-config name.", "build_failed", "pymysql"),
        ("error: subprocess-exited-with-error\n\nFailed building wheel for x", "build_failed",
         "a version that has a wheel"),
        ("error: externally-managed-environment\n\n\u00d7 This environment is externally managed",
         "externally_managed", "--break-system-packages"),
        ("npm error code EACCES\nnpm error syscall mkdir", "permission_denied", "-g"),
        ("bash: line 1: /etc/x: Permission denied", "permission_denied", "sudo"),
        ("cp: cannot create regular file '/etc/x': Permission denied", "permission_denied", "sudo"),
        ("E: Could not open lock file /var/lib/dpkg/lock-frontend - open (13: Permission denied)",
         "permission_denied", 'user "root"'),
        ("PermissionError: [Errno 13] Permission denied: '/etc/x'", "permission_denied", "root"),
        ("Error: listen EADDRINUSE: address already in use :::3000\n    at Server",
         "address_in_use", "read_job"),
        ("OSError: [Errno 98] Address already in use", "address_in_use", "Use another port"),
        ("FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory",
         "out_of_memory", "--max-old-space-size"),
        ("MemoryError", "out_of_memory", "Use less"),
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 74.5 GiB",
         "out_of_memory", "Use less"),
        ("OSError: [Errno 28] No space left on device", "disk_full", "Delete what"),
        ("ssl.SSLCertVerificationError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed",
         "certificate_unknown", "SSL_CERT_FILE"),
        ("javax.net.ssl.SSLHandshakeException: PKIX path building failed: sun.security",
         "certificate_unknown", "keytool"),
        ("E: Unable to locate package hello", "package_not_found", "sudo apt-get update"),
        ("ERROR: No matching distribution found for nosuch", "package_not_found", "Check the name"),
        ("ERROR: No matching distribution found for yaml==6", "package_not_found",
         'packages "pyyaml"'),
        ("System has not been booted with systemd as init system (PID 1). Can't operate.",
         "no_systemd", "background"),
        ("EOFError: EOF when reading a line", "no_input", "stdin"),
        ("bash: line 1: ./x: cannot execute binary file: Exec format error", "not_executable",
         "x86-64"),
        ("bash: line 1: ./x.sh: cannot execute: required file not found", "interpreter_not_found",
         "line ends"),
        ("bash: line 1: ./x.sh: /bin/bash^M: bad interpreter: No such file or directory",
         "interpreter_not_found", "sed -i"),
        ("/usr/bin/env: \u2018bash\\r\u2019: No such file or directory", "interpreter_not_found",
         "sed -i"),
        ("_tkinter.TclError: no display name and no $DISPLAY environment variable", "no_display",
         "headless"),
        ("Warning: Extension MASQUERADE revision 0 not supported, missing kernel module?\n"
         "iptables v1.8.11 (nf_tables):  RULE_INSERT failed (No such file or directory)",
         "no_iptables", "nft"),
        ("iptables v1.8.11 (legacy): can't initialize iptables table `nat': Table does not exist "
         "(do you need to insmod?)", "no_iptables", '"iptables": false'),
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon "
         "running?", "no_docker_server", "sudo dockerd >/tmp/dockerd.log"),
        ("permission denied while trying to connect to the Docker daemon socket at unix:///var/run/"
         "docker.sock: dial unix /var/run/docker.sock: connect: permission denied",
         "permission_denied", "docker with sudo"),
        ("dockerd needs to be started with root privileges. To run dockerd in rootless mode",
         "permission_denied", "sudo"),
    ],
)  # fmt: skip
def test_errors_of_well_known_programs_are_diagnosed(said: str, code: str, words: str) -> None:
    found = diagnosis_of(failed(f"Traceback (most recent call last):\n{said}\n"))
    assert found.code == code
    assert words in found.next_step
    assert diagnose(failed(said, exit_code=None)) is None  # after a timeout the output may be old
    assert diagnose(failed(said, exit_code=0)) is None


def test_the_next_step_installs_docker_with_its_server() -> None:
    for command in ("docker", "dockerd"):
        assert "install -y docker.io docker-cli" in diagnosis_of(failed(command=command)).next_step
    on_alpine = diagnosis_of(failed(command="docker", have=ALPINE))
    assert "apk add docker docker-cli" in on_alpine.next_step


def test_the_next_step_for_root_does_not_name_sudo() -> None:
    denied = failed("bash: line 1: /proc/x: Permission denied", user=GuestUser.ROOT)
    assert diagnose(denied) is None
    assert "sudo" not in diagnosis_of(failed(command="ps", user=GuestUser.ROOT)).next_step


def test_a_diagnosis_names_the_port_in_use() -> None:
    said = "Error: listen EADDRINUSE: address already in use 127.0.0.1:8080"
    assert "port 8080" in diagnosis_of(failed(said)).cause


@pytest.mark.parametrize(
    "said, words",
    [
        ("ping: connect: Network is unreachable", "curl -I https://HOST"),
        ("socket.error: [Errno 101] Network is unreachable", "Use TCP to a public server"),
    ],
)
def test_what_does_not_get_out_is_diagnosed(said: str, words: str) -> None:
    evidence = failed(said)
    assert diagnose(evidence) is None  # no packet tried to leave: the words alone prove nothing
    counted = replace(evidence, record=replace(evidence.record, unrouted=2))
    found = diagnosis_of(counted)
    assert (found.code, words in found.next_step) == ("no_direct_network", True)


@pytest.mark.parametrize(
    "said",
    [
        "socket.gaierror: [Errno -2] Name or service not known",
        "curl: (6) Could not resolve host: x.test",
        "Error: getaddrinfo ENOTFOUND x.test",
        "java.net.UnknownHostException: x.test",
        "dial tcp: lookup x.test on 198.18.0.2:53: no such host",
        "fatal: unable to look up x.test (port 9418) (Name or service not known)",
    ],
)
def test_a_name_that_does_not_exist_is_diagnosed(said: str) -> None:
    found = diagnosis_of(failed(said))
    assert found.code == "name_not_found"
    assert ("https://" in found.next_step) is ("9418" in said)
    assert diagnose(replace(failed(said), network=NO_NETWORK)) is None


SERVER = Listener(3000, 412, "node server.js")
OTHER = Listener(8000, 99, "python3 -m http.server")


@pytest.mark.parametrize(
    "said, listeners, cause, step",
    [
        ("Error: listen EADDRINUSE: address already in use :::3000\n", (OTHER, SERVER),
         "port 3000 already: pid 412 on port 3000, node server.js.", "sudo kill 412."),
        ("OSError: [Errno 98] Address already in use", (OTHER,),
         "already: pid 99 on port 8000, python3 -m http.server.", "sudo kill 99."),
        ("OSError: [Errno 98] Address already in use", (SERVER, OTHER),
         "node server.js; pid 99 on port 8000", "sudo kill PID."),
        ("Error: listen EADDRINUSE: address already in use :::5000\n", (SERVER,),
         "port 5000 already.", "Use another port"),
    ],
)  # fmt: skip
def test_a_diagnosis_names_the_process_that_holds_the_port(
    said: str, listeners: tuple[Listener, ...], cause: str, step: str
) -> None:
    found = diagnosis_of(failed(said, listeners=listeners))
    assert found.code == "address_in_use"
    assert cause in found.cause
    assert step in found.next_step

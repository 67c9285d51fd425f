# SPDX-License-Identifier: Apache-2.0
"""Runtimes: command templates, names, and the package grammar of every ecosystem."""

import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import InvalidArgument, InvalidRuntime
from waggle.domain.programs.runtime import (
    MAX_PACKAGE_LENGTH,
    MAX_PACKAGES,
    Runtime,
    RuntimeName,
    parse_template,
)

PIP = Runtime(RuntimeName.PYTHON, ".py", ("python3", "{file}"), ("pip", "install", "{packages}"))
NPM = Runtime(RuntimeName.NODE, ".js", ("node", "{file}"), ("npm", "install", "{packages}"))
APT = Runtime(
    RuntimeName.SHELL,
    ".sh",
    ("bash", "{file}"),
    ("apt-get", "install", "-y", "{packages}"),
    install_as_root=True,
)
INSTALLERS = [PIP, NPM, APT]

NEVER = [
    "",
    "-r",
    "-e",
    "-o",
    "--",
    "-",
    "--index-url",
    "--index-url=http://x",
    "--registry=http://x",
    ".",
    "..",
    "./x",
    "../x",
    "/etc/passwd",
    "~/x",
    "file:../x",
    "http://x/y",
    "https://x/y.tar.gz",
    "git+https://x/y",
    "git+ssh://git@x/y",
    "ssh://x",
    "x y",
    " x",
    "x\n",
    "x\0",
    "x;id",
    "x|id",
    "x&id",
    "$(id)",
    "`id`",
    "x'",
    'x"',
    "x\\y",
    "x>/tmp/y",
    "{packages}",
    "*",
    "x?",
    "é",
    "x\u00a0y",
    "x\u200b",
    "\ud800",
    "x" * (MAX_PACKAGE_LENGTH + 1),
]


@pytest.mark.parametrize("runtime", INSTALLERS, ids=lambda runtime: runtime.name)
@pytest.mark.parametrize("text", NEVER, ids=lambda text: repr(text)[:40])
def test_no_installer_accepts_options_urls_paths_or_shell_text(runtime: Runtime, text: str) -> None:
    with pytest.raises(InvalidArgument):
        runtime.check_packages([text])
    with pytest.raises(InvalidArgument):
        runtime.check_packages(["fine", text])


@pytest.mark.parametrize(
    "text",
    [
        "numpy",
        "uvicorn[standard]",
        "uvicorn[standard,extra-2]",
        "numpy==2.*",
        "a>=1,<2",
        "a~=1.4.2",
        "a!=1.0",
        "a===2011k",
        "torch==2.1.0+cpu",
        "x[y]>=1!2.0rc1",
        "ruamel.yaml",
        "zope.interface",
        "typing_extensions",
        "Flask",
        "2to3",
        "a",
    ],
)
def test_pip_accepts(text: str) -> None:
    assert PIP.check_packages([text]) == (text,)


@pytest.mark.parametrize(
    "text",
    [
        "x;os_name=='nt'",
        "a @ http://x/y",
        "a@http://x/y",
        "a@1",
        "a==",
        "==1",
        "a=1",
        "a>=1,",
        "a[",
        "a[]",
        "a[x",
        "a[-x]",
        "a[x,]",
        "a (>=1)",
        "a-",
        "_a",
        "a.",
        "local.whl",
        "Local-1.0-py3-none-any.WHL",
        "local.whl[extra]",
        "local.zip",
        "local.tar.gz",
        "a==1.tar.bz2",
        "@types/node",
        "user/repo",
    ],
)
def test_pip_refuses(text: str) -> None:
    with pytest.raises(InvalidArgument, match="package name for python"):
        PIP.check_packages([text])


@pytest.mark.parametrize(
    "text",
    [
        "left-pad",
        "left-pad@1.3.0",
        "@types/node",
        "@types/node@20",
        "react@^18",
        "react@~18.2.0",
        "react@>=18",
        "react@1.x",
        "react@*",
        "react@latest",
        "react@19.0.0-rc.1+build.5",
        "lodash.merge",
        "JSONStream",
        "socket.io",
        "3d-view",
    ],
)
def test_npm_accepts(text: str) -> None:
    assert NPM.check_packages([text]) == (text,)


@pytest.mark.parametrize(
    "text",
    [
        "user/repo",
        "github:user/repo",
        "gist:11081aaa281",
        "git@host.example:user/repo",
        "x@npm:y",
        "x@file:..",
        "x@git+ssh://y",
        "x@user/repo",
        "x@..",
        "x@.",
        "x@./y",
        "x@",
        "@types",
        "@types/",
        "@/node",
        "@../x",
        "@types/../x",
        "@types/node/x",
        "@types/.hidden",
        "_private",
        ".hidden",
        "local.tgz",
        "local.TAR.GZ",
        "x@local.tar",
        "uvicorn[standard]",
    ],
)
def test_npm_refuses(text: str) -> None:
    with pytest.raises(InvalidArgument, match="package name for node"):
        NPM.check_packages([text])


@pytest.mark.parametrize(
    "text",
    [
        "jq",
        "libc6=2.41-1",
        "g++",
        "libstdc++6",
        "memtest86+",
        "dvd+rw-tools",
        "python3.13",
        "vim=2:9.1.0-1",
        "openssl=3.5.1-1+deb13u1",
        "x=1.0~rc1-2",
        "jq=1.7.1-r0",
        "py3-setuptools",
        "7zip",
    ],
)
def test_apt_and_apk_accept(text: str) -> None:
    assert APT.check_packages([text]) == (text,)


@pytest.mark.parametrize(
    "text",
    [
        "foo-",
        "libc6-",
        "g++-",
        "foo=1.0-",
        "foo-=1.0",
        "foo/stable",
        "foo:i386",
        "foo=",
        "foo==1",
        "foo=-1",
        "foo=1=2",
        "foo*",
        "^foo",
        "foo^",
        "foo$",
        "+foo",
        "_foo",
        "!foo",
        "foo@edge",
        "foo<2",
        "foo~1",
        "local.deb",
        "local.APK",
        "@types/node",
        "a[b]",
    ],
)
def test_apt_and_apk_refuse(text: str) -> None:
    with pytest.raises(InvalidArgument, match="package name for shell"):
        APT.check_packages([text])


@given(
    st.text(max_size=40)
    | st.from_regex(
        r"@?[a-z][a-z0-9._-]{0,8}(/[a-z.]{1,4})?([=@<>~!]{1,3}[a-z0-9.*+:/-]{1,8})?", fullmatch=True
    ),
    st.sampled_from(INSTALLERS),
)
def test_an_accepted_package_is_one_harmless_word(text: str, runtime: Runtime) -> None:
    """No text that a grammar accepts is an option, a path, a URL or shell text."""
    try:
        (package,) = runtime.check_packages([text])
    except InvalidArgument:
        return
    assert package == text
    assert package[0] in string.ascii_letters + string.digits + "@"
    assert package.isascii()
    assert package.isprintable()
    assert not set(package) & set(" \"'`$;&|\\(){}#")
    assert "://" not in package
    assert package.count("/") == (1 if package.startswith("@") else 0)
    assert not package.endswith("-") or runtime is not APT


def test_an_empty_list_of_packages_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="No package"):
        PIP.check_packages([])


def test_a_url_is_refused_with_a_command_that_accepts_it() -> None:
    with pytest.raises(InvalidArgument) as refused:
        PIP.check_packages(["git+https://host.example/x.git"])
    assert 'code "pip install git+https://host.example/x.git"' in refused.value.hint
    with pytest.raises(InvalidArgument) as refused:
        PIP.check_packages(["x;$(id)"])
    assert "$(id)" not in refused.value.hint


def test_at_most_a_hundred_packages_are_accepted() -> None:
    assert len(PIP.check_packages(["x"] * MAX_PACKAGES)) == MAX_PACKAGES
    with pytest.raises(InvalidArgument, match="101 packages"):
        PIP.check_packages(["x"] * (MAX_PACKAGES + 1))


def test_a_refusal_quotes_the_bad_package_in_one_short_line() -> None:
    with pytest.raises(InvalidArgument) as refused:
        PIP.check_packages(["fine", "\x1b[31m\n" + "x" * 1_000_000])
    assert "\\x1b" in refused.value.message
    assert "\n" not in refused.value.message
    assert len(refused.value.message) < 200


@pytest.mark.parametrize("runtime", INSTALLERS, ids=lambda runtime: runtime.name)
@pytest.mark.parametrize("unit", ["a-", "a.", "[a", "a,a[", "a=", "@a", "a+-"])
def test_matching_a_package_takes_linear_time(runtime: Runtime, unit: str) -> None:
    """The length limit is checked first; a text below it is matched quickly."""
    for text in (unit * (MAX_PACKAGE_LENGTH // len(unit)), unit * 1_000_000):
        for suffix in ("", "!", "\n"):
            with pytest.raises(InvalidArgument):
                runtime.check_packages([text + suffix + " "])


# Argv


def test_argv_has_whole_words() -> None:
    assert PIP.exec_argv("/tmp/a b.py") == ("python3", "/tmp/a b.py")
    assert PIP.install_argv(["a", "b"]) == ("pip", "install", "a", "b")


@pytest.mark.parametrize(
    "words, given, apart",
    [
        ("python3 -u {file}", "python3 -u {runner.py} {file}", True),
        ("/opt/bin/python3.13 {file}", "/opt/bin/python3.13 {runner.py} {file}", True),
        ("node --x {file} a", "node --x -r {runner.js} {file} a", True),
        ("{shell} {file}", "{shell} {file}", True),
        ("bash -eu {file}", "bash -eu {file}", True),
        ("python3 -m pdb {file}", "python3 -m pdb {file}", False),
        ("uv run {file}", "uv run {file}", False),
        ("deno run {file}", "deno run {file}", False),
        ("mypython {file}", "mypython {file}", False),
    ],
)
def test_code_is_kept_apart_if_the_interpreter_is_known(
    words: str, given: str, apart: bool
) -> None:
    runtime = replace(PIP, exec_command=tuple(words.split()))
    assert runtime.code_argv() == (tuple(given.split()), apart)


def test_only_node_gets_the_option_to_compile() -> None:
    node = replace(PIP, exec_command=("node", "--x", "{file}", "a"))
    argv, apart = node.code_argv(compiled=True)
    assert argv[:3] == ("node", "--x", "--experimental-transform-types")
    assert (argv[-4:], apart) == (("-r", "{runner.js}", "{file}", "a"), True)
    for other in ("bun {file}", "python3 {file}"):
        runtime = replace(PIP, exec_command=tuple(other.split()))
        assert runtime.code_argv(compiled=True) == runtime.code_argv()


@given(st.lists(st.text(), max_size=5))
def test_an_inserted_value_is_not_split_or_replaced_again(values: list[str]) -> None:
    assert APT.install_argv(values) == ("apt-get", "install", "-y", *values)


@pytest.mark.parametrize(
    "template, words",
    [
        ("python3 {file}", ("python3", "{file}")),
        ("  env  -i 'my python' {file} --flag ", ("env", "-i", "my python", "{file}", "--flag")),
    ],
)
def test_templates(template: str, words: tuple[str, ...]) -> None:
    assert parse_template(template, "{file}") == words


@pytest.mark.parametrize(
    "template",
    [
        "",
        "   ",
        "python3",
        "{file}",
        "'' {file}",
        "{file} python3",
        "python3 {file} {file}",
        "sh -c 'python3 {file}'",
        "python3 --file={file}",
        "python3 {file} --log={file}",
        "python3 {packages}",
        "python3 '{file}",
    ],
)
def test_unusable_templates_are_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_template(template, "{file}")


# Names


def test_runtime_names_parse_to_themselves() -> None:
    assert [RuntimeName.parse(name) for name in RuntimeName] == list(RuntimeName)


@pytest.mark.parametrize(
    "text, name",
    [
        ("Python", "python"),
        ("python ", "python"),
        ("python3", "python"),
        ("python3.13", "python"),
        ("Python 3.12", "python"),
        ("python:3.11", "python"),
        ("nodejs", "node"),
        ("node20", "node"),
        ("node-22", "node"),
        ("JavaScript", "node"),
        ("ts", "node"),
        ("bash", "shell"),
        ("ubuntu", "shell"),
        ("ubuntu:24.04", "shell"),
        ("linux", "shell"),
    ],
)
def test_runtimes_have_aliases(text: str, name: str) -> None:
    assert RuntimeName.parse(text) == name


@pytest.mark.parametrize("text", ["", "ruby", "pythonic", "p" * 1000, "\n", "3", "python\0"])
def test_an_unknown_runtime_is_refused(text: str) -> None:
    with pytest.raises(InvalidRuntime) as refused:
        RuntimeName.parse(text)
    assert refused.value.hint == f"Use one of: {', '.join(RuntimeName)}."
    assert len(refused.value.message) < 100

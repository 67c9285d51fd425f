# SPDX-License-Identifier: Apache-2.0
"""Looking up an image's user with the kit's code (kit/guest/users.c), compiled for this host."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.programs import program

from waggle.infra.rootfs.kit import GUEST_SOURCES

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
app:x:5000:5001:An app:/srv/app:/bin/sh
1234:x:77:77::/named/like/a/number:
twin:x:5000:6000::/twin:/bin/sh
short:x:600:600
broken:x:me:600::/:
negative:x:-1:0::/:
huge:x:4294967296:0::/:"""
GROUP = """\
root:x:0:
app:x:5001:other
web:x:33:app,other
video:x:44:other,app
none:x:55:application
app2:x:66:app
"""


class Account(ctypes.Structure):
    _fields_ = (
        ("uid", ctypes.c_uint),
        ("gid", ctypes.c_uint),
        ("group_count", ctypes.c_uint),
        ("groups", ctypes.c_uint * 64),
        ("name", ctypes.c_char * 64),
        ("home", ctypes.c_char * 4096),
        ("directory", ctypes.c_char * 4096),
        ("shell", ctypes.c_char * 4096),
    )


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = tmp_path_factory.mktemp("users") / "users.so"
    sources = [str(GUEST_SOURCES / name) for name in ("users.c", "common.c")]
    # Undefined behaviour ends the test's process instead of passing unseen.
    checks = ["-fsanitize=bounds,undefined", "-fsanitize-undefined-trap-on-error"]
    subprocess.run(
        [program("cc"), "-shared", "-fPIC", "-D_GNU_SOURCE", *checks, "-o", str(library), *sources],
        check=True,
    )
    loaded = ctypes.CDLL(str(library))
    for function in (loaded.find_account, loaded.has_name, loaded.has_id, loaded.with_home):
        function.restype = ctypes.c_bool
    loaded.with_home.argtypes = (
        *(ctypes.c_char_p, ctypes.c_uint, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t),
    )
    return loaded


Found = tuple[int, int, list[int], str, str]


def find(
    users: ctypes.CDLL,
    wanted: bytes,
    passwd: bytes = PASSWD.encode(),
    group: bytes = GROUP.encode(),
) -> Found | None:
    account = Account(uid=1, home=b"untouched")
    if not users.find_account(ctypes.byref(account), wanted, passwd, group):
        assert (account.uid, account.home) == (1, b"untouched")
        return None
    groups = list(account.groups[: account.group_count])
    return account.uid, account.gid, groups, account.name.decode(), account.home.decode()


@pytest.mark.parametrize(
    "wanted, found",
    [
        ("app", (5000, 5001, [5001, 33, 44, 66], "app", "/srv/app")),
        ("5000", (5000, 5001, [5001, 33, 44, 66], "app", "/srv/app")),
        ("app:web", (5000, 33, [33], "app", "/srv/app")),
        ("app:99", (5000, 99, [99], "app", "/srv/app")),
        ("app:", (5000, 5001, [5001, 33, 44, 66], "app", "/srv/app")),
        ("4242", (4242, 0, [0], "sandbox", "")),
        ("4242:web", (4242, 33, [33], "sandbox", "")),
        ("1234", (1234, 0, [0], "sandbox", "")),
        ("short", (600, 600, [600], "short", "")),
        ("root", (0, 0, [0], "root", "/root")),
        ("twin", (5000, 6000, [6000], "twin", "/twin")),
    ],
)
def test_a_user_is_found_as_container_engines_find_it(
    users: ctypes.CDLL, wanted: str, found: Found
) -> None:
    assert find(users, wanted.encode()) == found


@pytest.mark.parametrize(
    "wanted",
    [
        *("nobody", "app:nothing", "", ":web", "broken", "negative", "huge", "-1", "+5", "0x10"),
        *("2147483648", "99999999999999999999", "a" * 300, "app:web:more", "APP", " app"),
    ],
)
def test_unknown_and_malformed_users_are_not_found(users: ctypes.CDLL, wanted: str) -> None:
    assert find(users, wanted.encode()) is None


def test_an_overlong_line_hides_no_account(users: ctypes.CDLL) -> None:
    long = b"x" * 100_000 + b":x:1:1::/:\n"
    assert find(users, b"app", long + b"app:x:7:7::/h:\n" + long, b"") == (7, 7, [7], "app", "/h")
    inside = b"x" * 8191 + b"app:x:9:9::/:\n"
    assert find(users, b"app", inside, b"") is None


def test_groups_over_the_limit_are_dropped(users: ctypes.CDLL) -> None:
    group = b"".join(b"g%d:x:%d:app\n" % (n, n + 10) for n in range(500))
    found = find(users, b"app", group=group)
    assert found is not None
    assert found[2] == [5001, *range(10, 73)]


names = st.text("ab1:,x\n", max_size=12).map(str.encode)
lines = st.lists(
    st.sampled_from([b"a:x:1:2::/h:", b"b:x:5:1:c:", b"1:x:3:4", b":::::", b"", b"a:x::"])
    | st.binary(max_size=30).map(lambda raw: raw.replace(b"\0", b""))
)


def split_id(text: bytes) -> int | None:
    return int(text) if text.isdigit() and len(text) <= 10 and int(text) < 2**31 else None


def reference(wanted: bytes, passwd: bytes, group: bytes) -> tuple[int, int] | None:
    user, _, group_name = wanted.partition(b":")
    uid, gid, by_id = split_id(user), 0, split_id(user) is not None
    rows = ((line.split(b":") + [b""] * 6)[:6] for line in passwd.split(b"\n"))
    for row in rows:
        its_uid, its_gid = split_id(row[2]), split_id(row[3])
        if its_uid is None or its_gid is None:
            continue
        if its_uid == uid if by_id else row[0] == user:
            uid, gid = its_uid, its_gid
            break
    if uid is None:
        return None
    if not group_name:
        return uid, gid
    chosen = split_id(group_name)
    if chosen is None:
        others = ((line.split(b":") + [b""] * 3)[:3] for line in group.split(b"\n"))
        ids = [split_id(row[2]) for row in others if row[0] == group_name]
        chosen = next((number for number in ids if number is not None), None)
    return None if chosen is None else (uid, chosen)


@given(names, lines, lines)
def test_any_text_gives_the_result_of_the_reference(
    users: ctypes.CDLL, wanted: bytes, passwd: list[bytes], group: list[bytes]
) -> None:
    texts = b"\n".join(passwd), b"\n".join(group)
    found = find_ids(users, wanted, *texts)
    assert found == reference(wanted, *texts)


def find_ids(
    users: ctypes.CDLL, wanted: bytes, passwd: bytes, group: bytes
) -> tuple[int, int] | None:
    account = Account()
    if not users.find_account(ctypes.byref(account), wanted, passwd, group):
        return None
    return account.uid, account.gid


def test_a_name_counts_only_at_the_start_of_a_line(users: ctypes.CDLL) -> None:
    assert users.has_name(b"a:x\nsandbox:x:1", b"sandbox")
    for text in (b"", b"sandbox", b"xsandbox:", b"a:sandbox:", b"sandbox2:x\n", b" sandbox:"):
        assert not users.has_name(text, b"sandbox")


def test_an_id_has_a_name_only_if_a_line_gives_it_one(users: ctypes.CDLL) -> None:
    for number in (0, 5000, 77, 600):
        assert users.has_id(PASSWD.encode(), number)
    for number in (1, 1234, 2**31):
        assert not users.has_id(PASSWD.encode(), number)
    assert not users.has_id(b":x:7:7::/:", 7), "a line without a name gives none"


def moved(users: ctypes.CDLL, passwd: bytes, uid: int, home: bytes, size: int = 4096) -> str | None:
    room = ctypes.create_string_buffer(size)
    done = users.with_home(passwd, uid, home, room, size)
    return room.value.decode() if done else None


def test_a_home_directory_is_changed_only_in_its_line(users: ctypes.CDLL) -> None:
    text = PASSWD.encode()
    assert moved(users, text, 5000, b"/h") == PASSWD.replace("/srv/app", "/h")
    assert moved(users, text, 0, b"") == PASSWD.replace(":/root:", "::")
    assert moved(users, b"a:x:1:1::", 1, b"/h") == "a:x:1:1::/h"
    assert moved(users, b"a:x:1:1::/\n", 1, b"/h") == "a:x:1:1::/h\n"
    assert moved(users, b"a:x:1:1", 1, b"/h") is None, "its line ends before"
    assert moved(users, text, 999, b"/h") is None
    assert moved(users, text, 5000, b"/h", 20) is None, "there is no room"


def test_the_account_structure_has_the_size_of_the_kits(tmp_path: Path, users: ctypes.CDLL) -> None:
    program = tmp_path / "size.c"
    program.write_text('#include "waggle.h"\nint size(void) { return sizeof(struct account); }\n')
    library = tmp_path / "size.so"
    argv = ["cc", "-shared", "-fPIC", f"-I{GUEST_SOURCES}", "-o", str(library), str(program)]
    subprocess.run(argv, check=True)
    assert ctypes.CDLL(str(library)).size() == ctypes.sizeof(Account)

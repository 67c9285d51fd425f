# SPDX-License-Identifier: Apache-2.0
"""The operator's file of network rules: its form, its faults, and its changes while it is used."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from waggle.domain.errors import QuotaExceeded, SettingsInvalid
from waggle.domain.network.rules import parse_rule
from waggle.infra.access.operator_rules import MAX_APPROVED, OperatorRules
from waggle.infra.access.rules_file import MAX_BYTES, MAX_RULES
from waggle.infra.shared.files import atomic_write

GIT = '[rules]\ngit = ["git.example.org", "*.git.example.org:22"]\n'
OTHER = '[rules]\ngit = ["other.example.org"]\n'


class Clock:
    """A monotonic clock that the test moves."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def write(path: Path, text: str, mode: int = 0o644) -> Path:
    atomic_write(path, text.encode(), mode)
    return path


def opened(path: Path | None, clock: Clock | None = None, *required: str) -> OperatorRules:
    approved = path.with_name("approved.toml") if path else None
    return OperatorRules(path, approved, required=required, monotonic=clock or Clock())


def shown(rules: OperatorRules) -> dict[str, list[str]]:
    return {name: [str(rule) for rule in found] for name, found in rules.sets().items()}


def test_a_file_names_lists_of_rules(tmp_path: Path) -> None:
    path = write(
        tmp_path / "rules.toml",
        '# ours\n[rules]\ninternal = ["10.1.0.0/16:5432", "deny 10.1.9.0/24"]\n'
        'packages = ["mirror.example.org", "mirror.example.org"]\nnone_yet = []\n',
    )
    assert shown(opened(path)) == {
        "internal": ["10.1.0.0/16:5432", "deny 10.1.9.0/24"],
        "packages": ["mirror.example.org"],
        "none_yet": [],
    }
    assert shown(opened(None)) == {}


@pytest.mark.parametrize(
    "text, place",
    [
        ("[rules]\ngit = [\n= 3", "line 3"),
        ("[" * 100_000, "is not TOML"),
        ("a = " + "9" * 5_000, "is not TOML"),
        ("[rule]\ngit = []\n", r"'rule': only the table \[rules\] is known"),
        ("rules = 3\n", "rules is no table"),
        ('[rules]\ngit = "git.example.org"\n', "rules.git is no list"),
        ("[rules.git]\nallow = []\n", "rules.git is no list"),
        ("[rules]\ngit = [3]\n", "rules.git, entry 1: it is no text"),
        ('[rules]\ngit = ["a.example.org", "no rule at all"]\n', "rules.git, entry 2: 'no rule at"),
        ('[rules]\ngit = ["@internal"]\n', "entry 1: a set cannot name another set"),
        ('[rules]\nGit = []\n', "rules.Git: '@Git' is no name"),
        ('[rules]\n"a\\nb" = []\n', r"rules.a\\nb"),
        ('[rules]\ngit = [' + '"a.example.org",' * (MAX_RULES + 1) + "]\n", "over 10000 rules"),
        ("#" * (MAX_BYTES + 1), "over 1048576 bytes"),
    ],
)  # fmt: skip
def test_a_fault_is_reported_with_its_place_at_the_start(
    tmp_path: Path, text: str, place: str
) -> None:
    path = write(tmp_path / "rules.toml", text)
    with pytest.raises(SettingsInvalid, match=place) as caught:
        opened(path)
    assert str(path) in caught.value.message
    assert len(caught.value.message) < 500


def test_a_file_that_others_may_change_or_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    with pytest.raises(SettingsInvalid, match="No such file"):
        opened(path)
    with pytest.raises(SettingsInvalid, match="users other than root"):
        opened(write(path, GIT, 0o664))
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(SettingsInvalid, match="no regular file"):
        opened(path)
    path.unlink()
    path.touch(0o600)
    path.write_bytes(b"[rules]\n\xff")
    with pytest.raises(SettingsInvalid, match="line 2 is not UTF-8"):
        opened(path)


def test_names_that_the_settings_use_must_be_there(tmp_path: Path) -> None:
    path, clock = write(tmp_path / "rules.toml", GIT), Clock()
    with pytest.raises(SettingsInvalid, match="it has no internal, which WAGGLE_DEFAULT_NETWORK"):
        opened(path, clock, "git", "internal")
    with pytest.raises(SettingsInvalid, match="@git, but there is no file") as caught:
        opened(None, clock, "git")
    assert "WAGGLE_NETWORK_RULES" in caught.value.hint
    rules = opened(path, clock, "git")
    write(path, "[rules]\n")
    clock.seconds = 2
    assert "git" in rules.sets(), "a file without it is not taken"
    assert rules.problems


def test_a_change_is_noticed_within_a_second_and_changes_the_version(tmp_path: Path) -> None:
    path, clock = write(tmp_path / "rules.toml", GIT), Clock()
    rules = opened(path, clock)
    before = rules.version
    write(path, OTHER)
    clock.seconds = 0.9
    assert rules.version == before
    clock.seconds = 1.0
    assert rules.version != before
    assert shown(rules) == {"git": ["other.example.org"]}
    after = rules.version
    clock.seconds = 5
    assert rules.version == after


@pytest.mark.parametrize("how", ["broken", "open to others", "gone"])
def test_a_file_that_breaks_keeps_the_last_good_rules(tmp_path: Path, how: str) -> None:
    path, clock = write(tmp_path / "rules.toml", GIT), Clock()
    rules = opened(path, clock)
    before = rules.version
    path.unlink()
    if how == "broken":
        write(path, '[rules]\ngit = ["git.example.org", "*."]\n')
    elif how == "open to others":
        write(path, OTHER, 0o666)
    with capture_logs() as logs:
        for second in (1, 2, 3):
            clock.seconds = second
            assert shown(rules) == {"git": ["git.example.org", "*.git.example.org:22"]}
            assert rules.version == before
    assert [entry["event"] for entry in logs] == ["network_rules_not_reloaded"]  # once
    assert len(rules.problems) == 1
    if how == "broken":
        assert "rules.git, entry 2" in rules.problems[0]
    write(path, OTHER)
    clock.seconds = 4
    assert shown(rules) == {"git": ["other.example.org"]}
    assert rules.problems == []


@pytest.mark.anyio
async def test_what_is_allowed_for_always_is_kept_by_owner(tmp_path: Path) -> None:
    path, clock = write(tmp_path / "rules.toml", GIT), Clock()
    rules, rule = opened(path, clock), parse_rule("new.example.org:8080")
    before = rules.version
    await rules.approve("ann", rule)
    await rules.approve("ann", rule)
    await rules.approve('b"\\b', parse_rule("deny x.example.org"))
    assert rules.version != before
    assert [*rules.approved("ann")] == [rule]
    assert [*rules.approved("carl")] == []
    assert path.read_text() == GIT, "the operator's own file is only read"
    again = opened(path, clock)
    assert [*again.approved("ann")] == [rule]
    assert [str(found) for found in again.approved('b"\\b')] == ["deny x.example.org"]
    approved = tmp_path / "approved.toml"
    assert approved.stat().st_mode & 0o777 == 0o600
    write(approved, "[approved]\nann = []\n", 0o600)
    clock.seconds = 2
    assert [*rules.approved("ann")] == [], "the operator may take it back"


@pytest.mark.anyio
async def test_approvals_are_bounded_and_do_not_replace_a_broken_file(tmp_path: Path) -> None:
    clock = Clock()
    rules = opened(write(tmp_path / "rules.toml", GIT), clock)
    many = ", ".join(f'"h{number}.example.org"' for number in range(MAX_APPROVED))
    approved = write(tmp_path / "approved.toml", f"[approved]\nann = [{many}]\n", 0o600)
    clock.seconds = 2
    with pytest.raises(Exception, match="500 rules are allowed") as caught:
        await rules.approve("ann", parse_rule("more.example.org"))
    assert "approved.toml" in getattr(caught.value, "hint", "")
    await rules.approve("bob", parse_rule("more.example.org"))
    write(approved, "[approved]\nann = [oops\n", 0o600)
    clock.seconds = 4
    with pytest.raises(SettingsInvalid, match="it is not TOML"):
        await rules.approve("bob", parse_rule("other.example.org"))
    assert "oops" in approved.read_text()


@pytest.mark.anyio
async def test_owners_have_bounds_of_their_own(tmp_path: Path) -> None:
    rules = ", ".join(f'"{"x" * 60}{number}.example.org"' for number in range(MAX_APPROVED))
    text = "".join(f'"owner{number}" = [{rules}]\n' for number in range(30))
    write(tmp_path / "approved.toml", f"[approved]\n{text}", 0o600)
    assert len(text) > MAX_BYTES
    assert 30 * MAX_APPROVED > MAX_RULES
    path = write(tmp_path / "rules.toml", GIT)
    opened_now, rule = opened(path), parse_rule("new.example.org")
    await opened_now.approve("ann", rule)
    with pytest.raises(QuotaExceeded):
        await opened_now.approve("owner7", rule)
    assert [*opened(path).approved("ann")] == [rule], "what is written can be read"


def test_a_file_of_the_largest_size_is_read_in_a_blink(tmp_path: Path) -> None:
    entries = ",\n".join(f'"host{n}.some-domain{n % 97}.example.org:443"' for n in range(10_000))
    path = write(tmp_path / "rules.toml", f"[rules]\nmany = [{entries}]\n")
    began = time.process_time()
    assert len(opened(path).sets()["many"]) == 10_000
    assert time.process_time() - began < 2


def test_a_file_is_read_again_at_once_when_asked(tmp_path: Path) -> None:
    """The clock stands still, so nothing else would look for a change."""
    path = write(tmp_path / "rules.toml", GIT)
    rules = opened(path)
    write(path, OTHER)
    assert list(shown(rules)["git"]) != ["other.example.org"]
    assert rules.reread() is None
    assert shown(rules) == {"git": ["other.example.org"]}
    write(path, "[rules\n")
    assert str(path) in str(rules.reread())
    assert shown(rules) == {"git": ["other.example.org"]}
    path.unlink()
    assert str(path) in str(rules.reread())
    write(path, GIT)
    assert rules.reread() is None
    assert opened(None).reread() is None

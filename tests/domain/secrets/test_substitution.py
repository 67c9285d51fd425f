# SPDX-License-Identifier: Apache-2.0
"""Heads of requests with placeholders: filled where they may be, refused elsewhere."""

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.access import LOCAL
from waggle.domain.secrets import Granted, Secret, SecretValue
from waggle.domain.secrets.substitution import MAX_USES, Misplaced, examine

HOST = "api.example.org"
A, B = (f"waggle-{name}-{'0123456789abcdef' * 2}".encode() for name in ("a", "b"))
VALUES = {"a": SecretValue(b"the-value-of-a"), "b": SecretValue(b"the value of b&")}
SECRETS = {
    "a": Secret("a", "A", (HOST,)),
    "b": Secret("b", "B", (HOST, "*.other.example.org"), places=("query", "header:x-key")),
}


class _Vault:
    def secret(self, name: str) -> Secret | None:
        return SECRETS.get(name)

    async def value(self, name: str) -> SecretValue:
        return VALUES[name]

    def known(self, name: str) -> tuple[SecretValue, ...]:
        return (VALUES[name],)


GRANTED = Granted(LOCAL, {"a": A.decode(), "b": B.decode()}, _Vault())


def filled(
    target: bytes, *headers: tuple[bytes, bytes], host: str = HOST
) -> tuple[bytes, list[tuple[bytes, bytes]], list[bytes]]:
    plan = examine(GRANTED, host, target, headers)
    return plan.filled(GRANTED, {name: VALUES[name] for name in plan.needed})


def test_each_place_gets_its_form() -> None:
    packed = base64.b64encode(A + b":x")
    target, headers, forms = filled(
        b"/p?k=" + B, (b"Authorization", b"Basic " + packed), (b"X-Key", b"<" + B + b">")
    )
    sent = base64.b64encode(b"the-value-of-a:x")
    assert target == b"/p?k=the%20value%20of%20b%26"
    assert headers == [(b"Authorization", b"Basic " + sent), (b"X-Key", b"<the value of b&>")]
    assert forms == [sent]


@pytest.mark.parametrize(
    "target, header, code",
    [
        (b"/" + A, (b"X", b"1"), "secret-place"),
        (b"/?" + A, (b"X", b"1"), "secret-place"),
        (b"/", (b"X", B), "secret-place"),
        (b"/", (b"X-Key-2", B), "secret-place"),
        (b"/", (A, b"1"), "secret-place"),
        (b"/", (A.upper(), b"1"), "secret-place"),
        (b"/", (b"Expect", A), "secret-place"),
        (b"/", (b"X", b"Basic " + base64.b64encode(b"u:" + B)), "secret-place"),
        (b"/", (b"X", b"Basic " + base64.b64encode(b"u:" + A[:-1])), "secret-unknown"),
        (b"/?waggle-zzz-" + b"0" * 32, (b"X", b"1"), "secret-unknown"),
        (b"/", (b"X", A * (MAX_USES + 1)), "secret-count"),
        (b"/", (b"X", b" ".join([A] * (MAX_USES + 1))), "secret-count"),
        (b"/" + b" ".join([A] * 10_000), (b"X", b"1"), "secret-count"),
    ],
)
def test_other_places_are_refused(target: bytes, header: tuple[bytes, bytes], code: str) -> None:
    with pytest.raises(Misplaced) as refused:
        filled(target, header)
    assert refused.value.code == code


def test_another_host_of_one_is_none_of_the_other() -> None:
    with pytest.raises(Misplaced) as refused:
        filled(b"/", (b"X", A), host="x.other.example.org")
    assert refused.value.code == "secret-host"
    assert "may go only to api.example.org, over https" in refused.value.text


def test_text_that_only_looks_like_one_passes() -> None:
    head = (b"User-Agent", b"waggle-client/1.0 waggle-a-b waggle-a-12 waggle-aa-123456")
    assert filled(b"/waggle-a-/", head)[:2] == (b"/waggle-a-/", [head])


PARTS = st.sampled_from([A, B, A[:-1], b"waggle-", b"-", b"x", b" ", b"a-", A.upper(), b"%77"])


@given(st.lists(PARTS, max_size=6), st.lists(PARTS, max_size=6), st.booleans())
def test_values_are_only_where_whole_placeholders_were(
    query: list[bytes], header: list[bytes], packed: bool
) -> None:
    text = b"".join(header)
    value = b"Basic " + base64.b64encode(text) if packed else text
    try:
        target, headers, _ = filled(b"/?" + b"".join(query), (b"X", value))
    except Misplaced:
        return
    got = headers[0][1]
    shown = base64.b64decode(got[6:]) if packed else got
    assert shown == text.replace(A, b"the-value-of-a")
    assert B not in text
    assert target == b"/?" + b"".join(query).replace(B, b"the%20value%20of%20b%26")
    assert A not in b"".join(query)


def test_hostile_heads_cost_little() -> None:
    begun = time.process_time()
    for text in (b"waggle-a-" * 7000, b"waggle-" * 9000, A[:-1] * 1400, b"Basic " + b"A" * 65000):
        try:
            filled(b"/?" + text, (b"X", text))
        except Misplaced:
            continue
    assert time.process_time() - begun < 0.5

# SPDX-License-Identifier: Apache-2.0
"""The plan of a prune: it removes the oldest images first, none in use, and no more than needed."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.image import CachedImage, plan_prune

SIZES = {f"b{n}": 3 * n + 1 for n in range(6)}

image_sets = st.lists(
    st.builds(
        CachedImage,
        st.uuids().map(str),
        st.lists(st.sampled_from("xyz"), max_size=2).map(tuple),
        st.sets(st.sampled_from(sorted(SIZES))).map(lambda names: {n: SIZES[n] for n in names}),
        st.integers(0, 20),
        st.integers(0, 5).map(float),
        st.booleans(),
    ),
    max_size=8,
)
bounds = st.none() | st.integers(0, 60)
ages = st.none() | st.integers(0, 6).map(float)


def weight(images: Iterable[CachedImage]) -> int:
    listed = list(images)
    blobs = {name: size for image in listed for name, size in image.blobs.items()}
    return sum(blobs.values()) + sum(image.disk_bytes for image in listed)


@given(image_sets, bounds, ages)
def test_a_plan_keeps_images_in_use_and_removes_no_more_than_needed(
    images: list[CachedImage], limit: int | None, older: float | None
) -> None:
    plan = plan_prune(images, max_bytes=limit, older_than=older)
    kept = [image for image in images if image not in plan.remove]
    loose = [image for image in kept if not image.pinned]
    assert not any(image.pinned for image in plan.remove)
    assert (plan.kept_bytes, plan.freed_bytes) == (weight(kept), weight(images) - weight(kept))
    used = [image.used for image in plan.remove]
    assert used == sorted(used)
    assert not used or all(image.used >= used[-1] for image in loose), "the oldest went first"
    if older is not None:
        assert all(image.used >= older for image in loose)
    if limit is not None:
        assert plan.kept_bytes <= limit or not loose, "within the bound if that is possible"
    if plan.remove:  # without the last removal it would not be enough
        last = plan.remove[-1]
        assert (older is not None and last.used < older) or (
            limit is not None and weight([*kept, last]) > limit
        )


@given(image_sets)
def test_a_prune_without_a_bound_removes_nothing(images: list[CachedImage]) -> None:
    assert plan_prune(images).remove == ()


def test_a_shared_blob_is_freed_with_its_last_image() -> None:
    shared, own = {"shared": 100}, {"shared": 100, "own": 10}
    old, new = CachedImage("1", ("a",), shared, 5, 1.0), CachedImage("2", ("b",), own, 5, 2.0)
    assert plan_prune([new, old], older_than=2.0).freed_bytes == 5
    assert plan_prune([new, old], older_than=3.0).freed_bytes == 120
    assert plan_prune([new, old], max_bytes=115).remove == (old,)
    assert plan_prune([new, old], max_bytes=114).remove == (old, new)

"""Query tokens: what is restored, and that a changed token is refused or harmless."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from likeness.errors import InvalidRequest, ModelMismatch
from likeness.features import ImageFeatures, features_of_point, packed_descriptors
from likeness.model import Resize
from likeness.preprocessing import input_box
from likeness.proof.evidence import PAIR_FEATURES
from likeness.proof.verdicts import FITTED_LEVELS, Calibration, LevelModel
from likeness.query_tokens import decode_query_token, encode_query_token
from likeness.records import WHOLE, Box, ImageInfo, ObjectRef, Point, State, Version
from likeness.rerank.profiles import Profile
from likeness.rerank.ranker import Ranker
from tests.image_features import DIM, VECTOR, made, spec, vector

SPEC = spec()
LEVELS = {level.value: LevelModel((1.0,) * PAIR_FEATURES, -1.0) for level in FITTED_LEVELS}
RANKER = Ranker(SPEC, Calibration(SPEC.fingerprint, LEVELS, LEVELS["similar"]))
STORED = [made(seed, local=None, packed=made(seed).packed) for seed in range(4)]
BOX, SEEN = Box(0.1, 0.2, 0.7, 0.9), Box(0.0, 0.125, 1.0, 0.875)
VIEWS = [made(1), made(2, sha256=None, box=BOX, seen=SEEN)]
TOKEN = encode_query_token(VIEWS, SPEC.fingerprint)
JUST_READ = ("local", "patches")  # not carried by a token


def restored(text: str) -> list[ImageFeatures]:
    return decode_query_token(text, SPEC)


def encoded(parts: Any) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(parts)).decode().rstrip("=")


def parts() -> list[Any]:
    """The decoded parts of a valid token: format, model, views."""
    padded = TOKEN + "=" * (-len(TOKEN) % 4)
    decoded: list[Any] = msgspec.msgpack.decode(base64.urlsafe_b64decode(padded))
    return decoded


def with_field(place: int, value: Any) -> str:
    """A token whose first view has another value in one field."""
    form, model, views = parts()
    views[0][place] = value
    return encoded([form, model, views])


def survives(text: str) -> None:
    """Either it is refused with a named error, or its views can be ranked with."""
    with suppress(InvalidRequest, ModelMismatch):
        views = restored(text)
        ranked = RANKER.rank(views, STORED, Profile.PRECISE, len(STORED))
        assert np.isfinite(ranked.score).all()
        for proof in ranked.proofs.values():
            assert np.isfinite(
                [proof.geometry, *proof.verdict[1:], *sum(proof.boxes or (), ())]
            ).all()


# What comes back


def test_a_view_is_restored_with_its_vector_to_half_precision() -> None:
    for view, found in zip(VIEWS, restored(TOKEN), strict=True):
        np.testing.assert_allclose(found.vector, view.vector, atol=2**-11)
        assert np.linalg.norm(found.vector) == pytest.approx(1, abs=1e-6)
        assert found.vector.dtype == np.float32
        for name in ImageFeatures.__struct_fields__:
            if name not in ("vector", "packed", *JUST_READ):
                assert getattr(found, name) == getattr(view, name), name
        assert found.packed == packed_descriptors(view)
        assert found.local is found.patches is None


def test_a_view_with_only_a_vector_is_restored() -> None:
    [found] = restored(encode_query_token([ImageFeatures(vector(3))], SPEC.fingerprint))
    assert (found.packed, found.colours, found.sha256) == (None, None, None)
    assert found.box == found.seen == WHOLE


def test_a_token_made_from_a_restored_view_finds_the_same() -> None:
    again = restored(encode_query_token(restored(TOKEN), SPEC.fingerprint))
    for one, two in zip(restored(TOKEN), again, strict=True):
        np.testing.assert_allclose(one.vector, two.vector, atol=2**-11)
        assert (one.packed, one.colours, one.box) == (two.packed, two.colours, two.box)


def test_a_restored_view_ranks_as_the_image_did() -> None:
    before, after = (RANKER.rank(v, STORED, Profile.PRECISE, 4) for v in (VIEWS, restored(TOKEN)))
    assert before.order.tolist() == after.order.tolist()
    np.testing.assert_allclose(after.cosine, before.cosine, atol=2e-3)
    assert after.proofs[1].inliers == before.proofs[1].inliers
    assert after.proofs[1].verdict == before.proofs[1].verdict


def test_a_token_is_short_and_needs_no_escape_in_a_url() -> None:
    assert len(encode_query_token([made(1)], SPEC.fingerprint)) < 10_000
    assert set(TOKEN) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_a_stored_point_gives_the_features_of_its_image() -> None:
    resize = Resize("crop")
    point = Point(
        ObjectRef("b", "k"),
        State.LIVE,
        Version(),
        "m",
        0.0,
        image=ImageInfo("JPEG", 300, 200, "5" * 64),
        vector=vector(1),
        local=made(1).packed,
        colours=made(1).colours,
    )
    found = features_of_point(point, spec(resize))
    np.testing.assert_array_equal(found.vector, vector(1))
    assert (found.packed, found.colours) == (made(1).packed, made(1).colours)
    assert (found.sha256, found.box) == ("5" * 64, WHOLE)
    assert found.seen == pytest.approx((1 / 6, 0, 5 / 6, 1), abs=1e-6)


# What is refused


def test_another_models_token_is_refused_with_both_models() -> None:
    other = spec(weights="1")
    with pytest.raises(ModelMismatch, match=f"{SPEC.fingerprint}.*{other.fingerprint}"):
        decode_query_token(TOKEN, other)


def test_another_format_is_refused_before_its_model_is_read() -> None:
    _, model, views = parts()
    for other in (model, "of the future"):
        with pytest.raises(InvalidRequest, match="not a token from an answer"):
            restored(encoded([2, other, views]))


def test_no_view_and_three_views_are_refused() -> None:
    form, model, views = parts()
    for wrong in ([], [views[0]] * 3):
        with pytest.raises(InvalidRequest):
            restored(encoded([form, model, wrong]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=",
        "A",
        "AAAA",
        "not a token",
        "ключ",
        "\ud800",
        TOKEN + "AAAA",
        TOKEN.replace("A", "+"),
    ],
)
def test_text_that_is_not_a_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="query_id: not a token from an answer"):
        restored(text)


@pytest.mark.parametrize("keep", [1, 10, 100, len(TOKEN) // 2, len(TOKEN) - 4, len(TOKEN) - 1])
def test_a_token_cut_short_is_refused(keep: int) -> None:
    with pytest.raises(InvalidRequest):
        restored(TOKEN[:keep])


def test_a_huge_token_is_refused_although_it_would_decode() -> None:
    """Colours of another size are ignored: only the length of the token is wrong."""
    assert restored(with_field(2, b"c" * 30_000))[0].colours == b"c" * 30_000
    with pytest.raises(InvalidRequest):
        restored(with_field(2, b"c" * 60_000))


def test_a_deeply_nested_token_is_refused() -> None:
    nested: Any = []
    for _ in range(400):
        nested = [nested]
    with pytest.raises(InvalidRequest):
        restored(encoded(nested))
    deep = base64.urlsafe_b64encode(b"\x91" * 40_000).decode()
    with pytest.raises(InvalidRequest):
        restored(deep)


@pytest.mark.parametrize(
    "values",
    [
        np.full(VECTOR, np.nan),
        np.full(VECTOR, np.inf),
        np.r_[np.nan, np.ones(VECTOR - 1)],
        np.zeros(VECTOR),
        np.ones(VECTOR - 1),
        np.ones(VECTOR + 1),
        np.ones(0),
    ],
    ids=["NaN", "infinite", "one NaN", "zeros", "too short", "too long", "empty"],
)
def test_a_vector_without_a_direction_is_refused(values: np.ndarray) -> None:
    with pytest.raises(InvalidRequest):
        restored(with_field(0, values.astype(np.float16).tobytes()))


def test_half_a_number_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        restored(with_field(0, b"\x00" * (2 * VECTOR + 1)))


@pytest.mark.parametrize("packed", [b"x", b"\xff" + b"\x88" * (DIM // 2), b"\x88" * DIM])
def test_descriptors_that_do_not_fit_the_model_are_refused(packed: bytes) -> None:
    with pytest.raises(InvalidRequest):
        restored(with_field(1, packed))


def test_descriptors_for_a_model_without_any_are_refused() -> None:
    plain = spec(with_local=False)
    bare = [made(1, local=None, packed=None)]
    assert len(decode_query_token(encode_query_token(bare, plain.fingerprint), plain)) == 1
    with pytest.raises(InvalidRequest):
        decode_query_token(encode_query_token(VIEWS, plain.fingerprint), plain)


@pytest.mark.parametrize("place", [4, 5], ids=["box", "seen"])
@pytest.mark.parametrize(
    "box",
    [
        (0.0, 0.0, float("nan"), 1.0),
        (0.0, 0.0, float("inf"), 1.0),
        (-1e308, 0.0, 1e308, 1.0),
        (0.5, 0.0, 0.5, 1.0),
        (0.0, 0.9, 1.0, 0.1),
        (-0.1, 0.0, 1.0, 1.0),
        (0.0, 0.0, 1.0, 300.0),
        (0.0, 0.0, 1.0),
        ("0", 0.0, 1.0, 1.0),
    ],
)
def test_a_box_outside_the_image_is_refused(place: int, box: tuple[float, ...]) -> None:
    with pytest.raises(InvalidRequest):
        restored(with_field(place, box))


@pytest.mark.parametrize("rule", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(640, 480), (1, 5000), (5000, 1), (1, 1)])
def test_every_seen_box_of_a_network_is_restored(rule: Any, size: tuple[int, int]) -> None:
    of = spec(Resize(rule))
    view = made(1, seen=input_box(size, of))
    assert decode_query_token(encode_query_token([view], of.fingerprint), of)[0].seen == view.seen


# Any change at all


@settings(max_examples=120, deadline=None)
@given(
    place=st.integers(0, len(TOKEN)),
    length=st.integers(0, 6),
    instead=st.text(max_size=6) | st.text("ABCDxyz019-_=", max_size=6),
)
def test_changed_text_is_refused_or_harmless(place: int, length: int, instead: str) -> None:
    survives(TOKEN[:place] + instead + TOKEN[place + length :])


@settings(max_examples=120, deadline=None)
@given(flips=st.lists(st.integers(0, 8 * len(TOKEN) * 3 // 4 - 9), min_size=1, max_size=8))
def test_flipped_bits_are_refused_or_harmless(flips: list[int]) -> None:
    data = bytearray(base64.urlsafe_b64decode(TOKEN + "=" * (-len(TOKEN) % 4)))
    for bit in flips:
        data[bit // 8] ^= 1 << bit % 8
    survives(base64.urlsafe_b64encode(bytes(data)).decode().rstrip("="))


BOXES = st.tuples(*[st.floats(width=64) | st.floats(0, 1)] * 4)
ANY_VIEW = st.tuples(
    st.binary(max_size=80)
    | st.lists(st.floats(width=16), min_size=VECTOR, max_size=VECTOR).map(
        lambda values: np.array(values, np.float16).tobytes()
    ),
    st.none()
    | st.binary(max_size=99)
    | st.integers(0, 300).map(lambda spots: bytes(spots) + b"\x88" * (DIM // 2 * spots))
    | st.integers(0, 64).map(lambda spots: bytes(range(spots)) + b"\x1f" * (DIM // 2 * spots)),
    st.none() | st.binary(max_size=99) | st.just(VIEWS[0].colours),
    st.none() | st.text(max_size=5),
    BOXES | st.just(WHOLE),
    BOXES | st.just(WHOLE),
)


@settings(max_examples=120, deadline=None)
@given(
    form=st.just(1) | st.integers(-1, 3),
    model=st.just(SPEC.fingerprint) | st.text(max_size=20),
    views=st.lists(ANY_VIEW, min_size=1, max_size=2),
)
def test_a_forged_token_is_refused_or_harmless(form: int, model: str, views: list[Any]) -> None:
    survives(encoded([form, model, views]))

"""Verdicts: facts of pairs that are known, fits of models that are known, and what both promise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from console.evaluation.logistic_regression import fit, upper_bound
from likeness.descriptor_packing import cell_positions
from likeness.errors import ModelBundleError
from likeness.proof.evidence import PAIR_FEATURES, Evidence, evidence, pair_features
from likeness.proof.geometry import Verification
from likeness.proof.photometry import detail
from likeness.proof.verdicts import (
    CALIBRATION,
    FITTED_LEVELS,
    Calibration,
    Level,
    LevelModel,
    judge,
    load_calibration,
    probabilities,
)

SIDE, CELLS = 14, 16
IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
# the middle half of the query, twice as large: x' = 2x − 6.5 keeps the middle, 6.5, where it is
MIDDLE = ((2.0, 0.0, -6.5), (0.0, 2.0, -6.5))
Affine = tuple[tuple[float, float, float], tuple[float, float, float]]
Floats = NDArray[np.float64]
MARGINS = np.array([0.1, 0.3], np.float32)


def verified(*affines: Affine, score: float = 20.0) -> Verification:
    """Two matches for each transform, of which the first agrees."""
    count = len(affines)
    return Verification(
        np.full(count, score, np.float32),
        np.ones(count, np.intp),
        np.array(affines, np.float32).reshape(count, 2, 3),
        np.zeros((count, 2, 2), np.intp),
        np.tile([True, False], (count, 1)),
        np.ones((count, 2), np.float32),
    )


def scene(x: Floats, y: Floats) -> Floats:
    """Waves of several lengths at shares of a picture, (…, 3), from 0 to 1."""
    waves = np.sin(14 * x + 3 * y), np.cos(11 * y - 4 * x), np.sin(9 * x) * np.cos(12 * y)
    return np.stack([0.5 + 0.4 * wave for wave in waves], axis=-1)


def layout(of: Callable[[Floats, Floats], Floats]) -> NDArray[np.uint8]:
    """A picture's layout, (CELLS, CELLS, 3)."""
    at = ((cell_positions(CELLS) + 0.5) / CELLS).astype(np.float64)
    return np.rint(of(at[:, 0], at[:, 1]) * 255).astype(np.uint8).reshape(CELLS, CELLS, 3)


PICTURE = layout(scene)
ZOOMED = layout(lambda x, y: scene(0.25 + x / 2, 0.25 + y / 2))


def facts_of(
    candidates: NDArray[np.uint8], *affines: Affine, cosine: float = 1.0, score: float = 20.0
) -> Evidence:
    """The facts of PICTURE and candidates (K, CELLS, CELLS, 3)."""
    found = verified(*affines, score=score)
    cosines = np.full(len(affines), cosine, np.float32)
    margins = np.tile(MARGINS, (len(affines), 1))
    varied = np.full(len(affines), 0.2, np.float32)
    mine = np.repeat(detail(PICTURE[None]), len(affines), axis=0)
    return evidence(cosines, found, margins, varied, SIDE, mine, detail(candidates))


def look(
    candidate: NDArray[np.uint8], affine: Affine = IDENTITY, cosine: float = 1.0
) -> dict[str, float]:
    """The facts of PICTURE and one candidate."""
    found = facts_of(candidate[None], affine, cosine=cosine)
    return {name: float(values[0]) for name, values in found._asdict().items()}


# Facts


def test_a_picture_and_itself() -> None:
    found = look(PICTURE)
    assert found["contrast"] > 0.05
    assert (found["cosine"], found["geometry"]) == (1, 20)
    assert (found["distinct"], found["share"]) == pytest.approx((0.1, 0.25))
    assert (found["overlap_first"], found["overlap_second"]) == (1, 1)
    assert (found["aligned"], found["in_place"]) == pytest.approx((1, 1), abs=0.05)


def test_a_crop_by_a_known_transform() -> None:
    found = look(ZOOMED, MIDDLE)
    assert found["overlap_first"] == pytest.approx(0.25)
    assert found["overlap_second"] == 1
    assert found["aligned"] > 0.75
    assert found["in_place"] < 0.4  # unaligned, the two differ


def test_a_query_that_is_a_part_of_the_candidate() -> None:
    """x' = x / 2 + 3.5: of 14 cells the query fills those from 4 to 10."""
    part = layout(lambda x, y: scene(2 * x - 7.5 / SIDE, 2 * y - 7.5 / SIDE))
    found = look(part, ((0.5, 0, 3.5), (0, 0.5, 3.5)))
    assert found["overlap_first"] == 1
    assert found["overlap_second"] == pytest.approx(0.25)
    assert found["aligned"] > 0.5


@pytest.mark.parametrize("right", [0.0, 3.5, 7.0])
def test_a_shifted_frame_shows_the_rest(right: float) -> None:
    found = look(PICTURE, ((1, 0, right), (0, 1, 0)))
    assert found["overlap_first"] == pytest.approx(1 - right / SIDE, abs=0.04)
    assert found["overlap_second"] == pytest.approx(1 - right / SIDE, abs=0.04)


def test_a_quarter_turn_is_aligned() -> None:
    """(x, y) → (13 − y, x), in cells."""
    found = look(np.rot90(PICTURE, -1).copy(), ((0, -1, 13), (1, 0, 0)))
    assert (found["overlap_first"], found["overlap_second"]) == (1, 1)
    assert found["aligned"] == pytest.approx(1, abs=0.05)
    assert found["in_place"] < 0.5


def test_light_and_contrast_do_not_matter() -> None:
    darker = look((PICTURE // 2 + 20).astype(np.uint8))
    assert darker["aligned"] == pytest.approx(look(PICTURE)["aligned"], abs=0.05)


def test_a_negative_agrees_nowhere() -> None:
    found = look(255 - PICTURE)
    assert (found["aligned"], found["in_place"]) == (0, 0)


def test_what_is_smooth_proves_nothing_however_alike_it_is() -> None:
    """Two skies: the same gradient, which the colours of many pictures have."""
    sky = layout(lambda x, y: np.stack([y, y, 0.5 + y / 2], axis=-1) + 0 * x[:, None])
    one = np.ones(1, np.float32)
    smooth = detail(sky[None])
    found = evidence(one, verified(IDENTITY), MARGINS[None], one, SIDE, smooth, smooth)
    assert found.is_flat()[0]
    assert found.aligned[0] < 0.2
    assert found.in_place[0] < 0.2
    assert not facts_of(PICTURE[None], IDENTITY).is_flat()[0]


def test_frames_that_do_not_meet_have_nothing_in_common() -> None:
    found = look(PICTURE, ((1, 0, 100), (0, 1, 0)))
    assert (found["overlap_first"], found["overlap_second"], found["aligned"]) == (0, 0, 0)


def test_a_transform_onto_one_point_covers_nothing() -> None:
    found = look(PICTURE, ((0, 0, 7), (0, 0, 7)))
    assert found["overlap_second"] == 0
    assert all(np.isfinite(value) for value in found.values())


def test_each_candidate_has_the_facts_that_it_has_alone() -> None:
    affines, layouts = (IDENTITY, MIDDLE, IDENTITY), np.stack([PICTURE, ZOOMED, 255 - PICTURE])
    together = facts_of(layouts, *affines, cosine=0.8)
    for row in range(3):
        alone = look(layouts[row], affines[row], 0.8)
        for name, values in together._asdict().items():
            assert values[row] == pytest.approx(alone[name], abs=1e-6), name


@settings(max_examples=100, deadline=None)
@given(
    affine=st.tuples(*[st.tuples(*[st.floats(-60, 60, width=32)] * 3)] * 2),
    seed=st.integers(0, 1000),
    cosine=st.floats(-1, 1, width=32),
    score=st.floats(0, 64, width=32),
)
def test_facts_and_features_keep_their_ranges_whatever_was_found(
    affine: Affine, seed: int, cosine: float, score: float
) -> None:
    candidate = np.random.default_rng(seed).integers(0, 256, (1, CELLS, CELLS, 3), np.uint8)
    found = facts_of(candidate, affine, cosine=cosine, score=score)
    for name in ("share", "overlap_first", "overlap_second", "aligned", "in_place", "contrast"):
        assert 0 <= getattr(found, name)[0] <= 1, name
    rows = pair_features(found)
    assert rows.shape == (1, PAIR_FEATURES)
    assert np.isfinite(rows).all()
    assert rows.min() >= -1e-3
    assert rows.max() <= 1.5


# Fits


def sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))


def drawn(
    weights: list[float], bias: float, count: int, seed: int = 0
) -> tuple[Floats, NDArray[np.bool_]]:
    """Pairs whose closeness a logistic model decides."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, len(weights)))
    return rows, rng.random(count) < sigmoid(rows @ np.array(weights) + bias)


def test_a_fit_recovers_the_model_that_made_the_pairs() -> None:
    fitted = fit(*drawn([2.0, 1.0, 0.0, 0.5], 0.0, 20_000))
    np.testing.assert_allclose(fitted.weights, [2, 1, 0, 0.5], atol=0.1)
    assert fitted.bias == pytest.approx(0, abs=0.1)
    assert fitted.threshold == 0.5


def test_no_weight_is_negative_and_the_others_are_as_if_that_feature_were_not_there() -> None:
    rows, close = drawn([2.0, -1.0, 0.5], 0.0, 5_000)
    fitted, without = fit(rows, close), fit(rows[:, [0, 2]], close)
    assert fitted.weights[1] == 0
    np.testing.assert_allclose(np.delete(fitted.weights, 1), without.weights, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), more=st.floats(0, 2))
def test_more_agreement_never_makes_a_pair_less_close(seed: int, more: float) -> None:
    rng = np.random.default_rng(seed)
    fitted = fit(*drawn(rng.normal(0, 2, 4).tolist(), float(rng.normal()), 200, seed))
    pair = rng.normal(size=(1, 4))
    closer = pair + more * rng.random(4)
    assert fitted.probability(closer)[0] >= fitted.probability(pair)[0] - 1e-12


def test_a_fit_does_not_mind_how_many_pairs_are_not_close() -> None:
    rows, close = drawn([2.0, 1.0], 0.0, 40_000)
    kept = close | (np.random.default_rng(1).random(len(close)) < 0.1)
    np.testing.assert_allclose(fit(rows[kept], close[kept]).weights, [2, 1], atol=0.15)
    assert fit(rows[kept], close[kept]).bias == pytest.approx(0, abs=0.15)


def test_pairs_count_for_as_much_as_they_are_given() -> None:
    rows, close = drawn([2.0], 0.0, 5_000)
    twice = np.concatenate([rows, rows[:1000]]), np.concatenate([close, close[:1000]])
    importance = np.where(np.arange(5_000) < 1000, 2.0, 1.0)
    repeated = fit(*twice, np.ones(6_000))
    np.testing.assert_allclose(fit(rows, close, importance).weights, repeated.weights, atol=1e-6)


def test_few_pairs_move_the_prior_little_and_many_replace_it() -> None:
    prior = LevelModel((3.0,), -1.0)
    few, many = (
        fit(*drawn([0.5], 1.0, count), None, prior, strength=10.0) for count in (5, 20_000)
    )
    assert few.weights[0] > 2
    np.testing.assert_allclose(many.weights, [0.5], atol=0.1)


def test_pairs_that_a_line_parts_are_parted_by_finite_weights() -> None:
    rows = np.linspace(-1, 1, 40)[:, None]
    fitted = fit(rows, rows[:, 0] > 0)
    assert np.isfinite(fitted.weights).all()
    assert (fitted.probability(rows) > 0.5).tolist() == (rows[:, 0] > 0).tolist()


@pytest.mark.parametrize("value", [True, False])
def test_pairs_of_one_kind_are_no_error(value: bool) -> None:
    rows, _ = drawn([1.0, 1.0], 0.0, 30)
    fitted = fit(rows, np.full(30, value))
    assert np.isfinite([*fitted.weights, fitted.bias]).all()
    assert (fitted.probability(rows) > 0.5).mean() == value


def test_the_bound_of_a_share_is_above_it_and_shrinks_with_the_number_of_pairs() -> None:
    bounds = [upper_bound(count // 10, count) for count in (10, 100, 1000, 100_000)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] == pytest.approx(0.1, abs=0.002)
    assert upper_bound(0, 1000) == pytest.approx(0.0027, abs=0.0001)
    assert upper_bound(0, 0) == upper_bound(5, 5) == 1


# Verdicts


def model(
    biases: dict[Level, float], thresholds: dict[Level, float] | None = None, suspicion: float = 0.0
) -> Calibration:
    """Each level has the same chance for every pair."""
    return Calibration(
        "m",
        {
            level.value: LevelModel(
                (0.0,) * PAIR_FEATURES, biases[level], (thresholds or {}).get(level, 0.5)
            )
            for level in FITTED_LEVELS
        },
        LevelModel((0.0,) * PAIR_FEATURES, suspicion, 0.2),
    )


SAME_ITEM, SIMILAR = FITTED_LEVELS
ROW = np.zeros((1, PAIR_FEATURES))
DETAILED, FLAT = np.zeros(1, bool), np.ones(1, bool)


def test_the_closest_level_that_is_likely_enough_is_claimed() -> None:
    biases = {SAME_ITEM: 1.0, SIMILAR: 3.0}
    [found] = judge(model(biases), ROW, DETAILED)
    assert found.verdict == (SAME_ITEM, pytest.approx(sigmoid(np.array(1.0))))
    [found] = judge(model(biases, {SAME_ITEM: 0.9}), ROW, DETAILED)
    assert found.verdict == (SIMILAR, pytest.approx(sigmoid(np.array(3.0))))


def test_what_is_not_even_similar_is_none_with_the_rest_of_the_probability() -> None:
    [found] = judge(model(dict.fromkeys(FITTED_LEVELS, -2.0)), ROW, DETAILED)
    assert found.verdict == (Level.NONE, pytest.approx(1 - sigmoid(np.array(-2.0))))


def test_a_chance_of_just_the_threshold_is_claimed() -> None:
    calibration = model(dict.fromkeys(FITTED_LEVELS, 0.0))
    assert judge(calibration, ROW, DETAILED)[0].verdict.level is SAME_ITEM


def test_a_picture_without_detail_ends_at_similar() -> None:
    [found] = judge(model(dict.fromkeys(FITTED_LEVELS, 5.0)), ROW, FLAT)
    assert found.verdict.level is SIMILAR


@pytest.mark.parametrize(("bias", "suspected"), [(-1.0, True), (-2.0, False)])
def test_pixels_are_asked_from_the_threshold_of_suspicion_up(bias: float, suspected: bool) -> None:
    """Of a threshold of 0.2: σ(−1) is 0.27 and σ(−2) 0.12."""
    [found] = judge(model(dict.fromkeys(FITTED_LEVELS, -5.0), None, bias), ROW, DETAILED)
    assert (found.suspected, found.verdict.level) == (suspected, Level.NONE)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 8))
def test_the_same_item_is_never_likelier_than_what_is_similar(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = (
        LevelModel(tuple(rng.uniform(0, 4, PAIR_FEATURES).tolist()), float(rng.normal(-4)))
        for _ in FITTED_LEVELS
    )
    calibration = Calibration("m", {SAME_ITEM.value: one, SIMILAR.value: other}, one)
    rows = rng.random((count, PAIR_FEATURES))
    found = probabilities(calibration, rows)
    assert found.shape == (count, len(FITTED_LEVELS))
    assert (np.diff(found, axis=1) >= 0).all()
    for (verdict, _), row in zip(
        judge(calibration, rows, np.zeros(count, bool)), found, strict=True
    ):
        expected = (
            1 - row[-1] if verdict.level is Level.NONE else row[FITTED_LEVELS.index(verdict.level)]
        )
        assert verdict.probability == pytest.approx(expected)
        assert verdict.level in (*FITTED_LEVELS, Level.NONE)


def test_a_fitted_calibration_tells_crops_from_strangers() -> None:
    """From facts to a verdict and back: what is fitted on some pairs holds for others."""

    def facts(seed: int, close: bool) -> Evidence:
        rng = np.random.default_rng(seed)
        layouts = np.stack([ZOOMED if close else layout(lambda x, y: scene(y, 1 - x))] * 20)
        return facts_of(layouts, *[MIDDLE] * 20, score=rng.uniform(5, 20) if close else 0.2)

    rows = np.concatenate([pair_features(facts(seed, seed % 2 == 0)) for seed in range(10)])
    fitted = fit(rows, np.repeat([seed % 2 == 0 for seed in range(10)], 20))
    calibration = Calibration("m", {level.value: fitted for level in FITTED_LEVELS}, fitted)
    near, far = (
        judge(calibration, pair_features(facts(seed, seed == 98)), np.zeros(20, bool))
        for seed in (98, 99)
    )
    assert {(found.verdict.level, found.suspected) for found in near} == {(SAME_ITEM, True)}
    assert {(found.verdict.level, found.suspected) for found in far} == {(Level.NONE, False)}


# calibration.json


def stored(folder: Path, calibration: Calibration) -> Path:
    (folder / CALIBRATION).write_bytes(msgspec.json.encode(calibration))
    return folder


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    levels = {
        level.value: LevelModel(tuple(rng.random(PAIR_FEATURES).tolist()), 0.1, 0.7)
        for level in FITTED_LEVELS
    }
    calibration = Calibration("m", levels, levels["similar"], 0.25, 0.2, {"copy": 1.0}, "pairs")
    assert load_calibration(stored(tmp_path, calibration), "m") == calibration


def test_a_bundle_need_not_have_one(tmp_path: Path) -> None:
    assert load_calibration(tmp_path, "m") is None


def test_another_models_calibration_is_refused_and_says_how_to_make_one(tmp_path: Path) -> None:
    stored(tmp_path, model(dict.fromkeys(FITTED_LEVELS, 0.0)))
    with pytest.raises(ModelBundleError, match=r"of model m, the bundle is n: .likeness calibrate"):
        load_calibration(tmp_path, "n")


def test_missing_and_unknown_levels_are_refused(tmp_path: Path) -> None:
    levels = dict(model(dict.fromkeys(FITTED_LEVELS, 0.0)).levels)
    levels["copy"] = levels.pop("same_item")
    calibration = Calibration("m", levels, levels["similar"])
    with pytest.raises(ModelBundleError, match=r"the levels are .*copy"):
        load_calibration(stored(tmp_path, calibration), "m")


def test_weights_for_other_features_are_refused(tmp_path: Path) -> None:
    levels = dict(model(dict.fromkeys(FITTED_LEVELS, 0.0)).levels)
    short = LevelModel((0.0,) * (PAIR_FEATURES - 1), 0.0)
    for calibration in (
        Calibration("m", levels | {"similar": short}, levels["similar"]),
        Calibration("m", levels, short),
    ):
        with pytest.raises(ModelBundleError, match=f"each model has {PAIR_FEATURES} weights"):
            load_calibration(stored(tmp_path, calibration), "m")


def test_weights_that_speak_against_sameness_are_refused(tmp_path: Path) -> None:
    levels = dict(model(dict.fromkeys(FITTED_LEVELS, 0.0)).levels)
    against = LevelModel((*(1.0,) * (PAIR_FEATURES - 1), -0.1), 0.0)
    with pytest.raises(ModelBundleError, match="no weight may be negative"):
        load_calibration(stored(tmp_path, Calibration("m", levels, against)), "m")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b'{"model": "\xff", "levels": {}}',
        b"[]",
        b'{"model": "m"}',
        b'{"model": "m", "levels": {}, "thresholds": 1}',
        b'{"model": "m", "levels": {"copy": {"weights": [NaN], "bias": 0}}}',
        b'{"model": "m", "levels": {"copy": {"weights": ["1"], "bias": 0}}}',
    ],
)
def test_a_file_that_is_no_calibration_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / CALIBRATION).write_bytes(data)
    with pytest.raises(ModelBundleError, match=CALIBRATION):
        load_calibration(tmp_path, "m")


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / CALIBRATION).mkdir()
    with pytest.raises(ModelBundleError, match=CALIBRATION):
        load_calibration(tmp_path, "m")

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

from console.evaluation.logistic_regression import fit
from likeness.descriptor_packing import cell_positions
from likeness.errors import ModelBundleError
from likeness.proof.evidence import PAIR_FEATURES, Evidence, evidence, pair_features
from likeness.proof.geometry import Verification
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


def verified(*affines: Affine, score: float = 20.0, inliers: int = 50) -> Verification:
    count = len(affines)
    return Verification(
        np.full(count, score, np.float32),
        np.full(count, inliers, np.intp),
        np.array(affines, np.float32).reshape(count, 2, 3),
        np.zeros((count, 1, 2), np.intp),
        np.ones((count, 1), bool),
    )


def scene(x: Floats, y: Floats) -> Floats:
    """Smooth colours 0 to 1 at shares of a picture, (…, 3)."""
    return np.stack(
        [0.5 + 0.4 * np.sin(5 * x + 1), 0.5 + 0.4 * np.cos(4 * y), 0.3 + 0.3 * x * y], axis=-1
    )


def layout(of: Callable[[Floats, Floats], Floats]) -> NDArray[np.uint8]:
    """A picture's layout, (CELLS, CELLS, 3)."""
    at = ((cell_positions(CELLS) + 0.5) / CELLS).astype(np.float64)
    return np.rint(of(at[:, 0], at[:, 1]) * 255).astype(np.uint8).reshape(CELLS, CELLS, 3)


PICTURE = layout(scene)
ZOOMED = layout(lambda x, y: scene(0.25 + x / 2, 0.25 + y / 2))


def look(
    candidate: NDArray[np.uint8], affine: Affine = IDENTITY, cosine: float = 1.0
) -> dict[str, float]:
    """The facts of PICTURE and one candidate."""
    found = evidence(
        np.array([cosine], np.float32), verified(affine), SIDE, PICTURE, candidate[None]
    )
    return {name: float(values[0]) for name, values in found._asdict().items()}


# Facts


def test_a_picture_and_itself() -> None:
    assert look(PICTURE) == pytest.approx(
        {
            "cosine": 1,
            "geometry": 20,
            "inliers": 50,
            "shift": 0,
            "overlap_query": 1,
            "overlap_target": 1,
            "colour_mean": 0,
            "colour_p90": 0,
            "colour_correlation": 1,
            "unaligned_mean": 0,
            "unaligned_max": 0,
        },
        abs=1e-5,
    )


def test_a_crop_by_a_known_transform() -> None:
    """The query's corners, 7 cells from the middle, move to 14: half a frame to either side."""
    found = look(ZOOMED, MIDDLE)
    assert found["shift"] == pytest.approx(0.5)
    assert found["overlap_query"] == pytest.approx(0.25)
    assert found["overlap_target"] == 1
    assert found["colour_mean"] < 0.01
    assert found["colour_p90"] < 0.03
    assert found["colour_correlation"] > 0.99
    assert found["unaligned_mean"] > 0.07  # unaligned, the two differ


def test_a_query_that_is_a_part_of_the_candidate() -> None:
    """x' = x / 2 + 3.5: of 14 cells the query fills those from 4 to 10."""
    found = look(
        layout(lambda x, y: scene(2 * x - 7.5 / SIDE, 2 * y - 7.5 / SIDE).clip(0, 1)),
        ((0.5, 0, 3.5), (0, 0.5, 3.5)),
    )
    assert found["shift"] == pytest.approx(0.25, abs=0.02)
    assert found["overlap_query"] == 1
    assert found["overlap_target"] == pytest.approx(0.25)
    assert found["colour_mean"] < 0.02
    assert found["colour_correlation"] > 0.98


@pytest.mark.parametrize("right", [0.0, 3.5, 7.0])
def test_a_shifted_frame_shows_the_rest(right: float) -> None:
    found = look(PICTURE, ((1, 0, right), (0, 1, 0)))
    assert found["overlap_query"] == pytest.approx(1 - right / SIDE, abs=0.04)
    assert found["overlap_target"] == pytest.approx(1 - right / SIDE, abs=0.04)
    assert found["shift"] == pytest.approx(right / SIDE / 2)  # x moves, y does not


def test_a_quarter_turn_is_aligned() -> None:
    """(x, y) → (13 − y, x), in cells."""
    turned = np.rot90(PICTURE, -1).copy()
    found = look(turned, ((0, -1, 13), (1, 0, 0)))
    assert (found["overlap_query"], found["overlap_target"]) == (1, 1)
    assert found["colour_mean"] == pytest.approx(0, abs=1e-5)
    assert found["colour_correlation"] == pytest.approx(1, abs=1e-5)
    assert found["unaligned_mean"] > 0.1


def test_a_recoloured_picture_is_as_alike_and_of_another_colour() -> None:
    found = look((PICTURE // 2 + 20).astype(np.uint8))
    difference = np.abs(PICTURE // 2 + 20 - PICTURE.astype(float)).mean(axis=2) / 255
    assert found["colour_mean"] == pytest.approx(difference.mean(), abs=1e-4)
    assert found["unaligned_mean"] == pytest.approx(difference.mean(), abs=1e-4)
    assert found["colour_p90"] == pytest.approx(np.quantile(difference, 0.9), abs=0.01)
    assert found["unaligned_max"] == pytest.approx(difference.max(), abs=1e-4)
    assert found["colour_correlation"] > 0.99


def test_a_negative_is_as_unlike_as_can_be() -> None:
    assert look(255 - PICTURE)["colour_correlation"] == pytest.approx(-1, abs=1e-4)


def test_a_logo_is_seen_where_it_is_and_not_in_the_mean() -> None:
    stamped = PICTURE.copy()
    stamped[:3, :3] = 255 - stamped[:3, :3]
    found = look(stamped)
    assert found["unaligned_max"] > 0.3
    assert found["colour_mean"] < 0.03


def test_black_and_white_differ_by_all_there_is() -> None:
    black, white = np.zeros((2, CELLS, CELLS, 3), np.uint8) + np.uint8([[[[0]]], [[[255]]]])
    found = evidence(np.ones(1, np.float32), verified(IDENTITY), SIDE, black, white[None])
    assert (
        found.colour_mean[0]
        == found.colour_p90[0]
        == found.unaligned_mean[0]
        == found.unaligned_max[0]
        == 1
    )
    assert found.colour_correlation[0] == 0


def test_frames_that_do_not_meet_have_nothing_in_common() -> None:
    found = look(PICTURE, ((1, 0, 100), (0, 1, 0)))
    assert (found["overlap_query"], found["overlap_target"], found["colour_correlation"]) == (
        0,
        0,
        0,
    )
    assert found["colour_mean"] == found["colour_p90"] == found["shift"] == 1


def test_a_transform_onto_one_point_covers_nothing() -> None:
    found = look(PICTURE, ((0, 0, 7), (0, 0, 7)))
    assert found["overlap_target"] == 0
    assert all(np.isfinite(value) for value in found.values())


def test_each_candidate_has_the_facts_that_it_has_alone() -> None:
    affines, layouts = (IDENTITY, MIDDLE, IDENTITY), np.stack([PICTURE, ZOOMED, 255 - PICTURE])
    cosines = np.array([1, 0.8, 0.1], np.float32)
    together = evidence(cosines, verified(*affines), SIDE, PICTURE, layouts)
    for row in range(3):
        alone = look(layouts[row], affines[row], float(cosines[row]))
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
    layouts = np.random.default_rng(seed).integers(0, 256, (2, CELLS, CELLS, 3), np.uint8)
    found = evidence(
        np.array([cosine], np.float32), verified(affine, score=score), SIDE, layouts[0], layouts[1:]
    )
    for name in (
        "shift",
        "overlap_query",
        "overlap_target",
        "colour_mean",
        "colour_p90",
        "unaligned_mean",
    ):
        assert 0 <= getattr(found, name)[0] <= 1, name
    assert -1.0001 <= found.colour_correlation[0] <= 1.0001
    rows = pair_features(found)
    assert rows.shape == (1, PAIR_FEATURES)
    assert np.isfinite(rows).all()
    assert np.abs(rows).max() <= 1.5


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
    fitted = fit(*drawn([2.0, -1.0, 0.0, 0.5], 0.0, 20_000))
    np.testing.assert_allclose(fitted.weights, [2, -1, 0, 0.5], atol=0.1)
    assert fitted.bias == pytest.approx(0, abs=0.1)
    assert fitted.threshold == 0.5


def test_a_fit_does_not_mind_how_many_pairs_are_not_close() -> None:
    rows, close = drawn([2.0, -1.0], 0.0, 40_000)
    kept = close | (np.random.default_rng(1).random(len(close)) < 0.1)
    np.testing.assert_allclose(fit(rows[kept], close[kept]).weights, [2, -1], atol=0.15)
    assert fit(rows[kept], close[kept]).bias == pytest.approx(0, abs=0.15)


def test_pairs_that_a_line_parts_are_parted_by_finite_weights() -> None:
    rows = np.linspace(-1, 1, 40)[:, None]
    fitted = fit(rows, rows[:, 0] > 0)
    assert np.isfinite(fitted.weights).all()
    assert (sigmoid(rows @ fitted.weights + fitted.bias) > 0.5).tolist() == (
        rows[:, 0] > 0
    ).tolist()


@pytest.mark.parametrize("value", [True, False])
def test_pairs_of_one_kind_are_no_error(value: bool) -> None:
    rows, _ = drawn([1.0, 1.0], 0.0, 30)
    fitted = fit(rows, np.full(30, value), 0.01)
    assert np.isfinite([*fitted.weights, fitted.bias, fitted.threshold]).all()
    assert (sigmoid(rows @ np.array(fitted.weights) + fitted.bias) > 0.5).mean() == value


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 200),
    max_false_rate=st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.5, 1.0]),
    repeated=st.booleans(),
)
def test_no_more_false_pairs_reach_the_threshold_than_were_allowed(
    seed: int, count: int, max_false_rate: float, repeated: bool
) -> None:
    rows, close = drawn([1.0, -0.5], -0.3, count, seed)
    if repeated:  # equal pairs have equal chances: all of them or none
        rows = np.round(rows)
    fitted = fit(rows, close, max_false_rate)
    reached = sigmoid(rows @ np.array(fitted.weights) + fitted.bias) >= fitted.threshold
    assert reached[~close].sum() <= max_false_rate * (~close).sum()


def test_the_threshold_is_no_higher_than_it_must_be() -> None:
    rows, close = drawn([2.0], -3.0, 2000)
    fitted = fit(rows, close, 0.05)
    reached = sigmoid(rows @ np.array(fitted.weights) + fitted.bias) >= fitted.threshold
    allowed = int(0.05 * (~close).sum())
    assert reached[~close].sum() == allowed > 50
    assert fitted.threshold > 0.5
    assert fit(rows, close, 1.0).threshold == 0.5  # what is unlikely is never claimed


# Verdicts


def model(biases: dict[Level, float], thresholds: dict[Level, float] | None = None) -> Calibration:
    """Each level has the same chance for every pair."""
    return Calibration(
        "m",
        {
            level.value: LevelModel(
                (0.0,) * PAIR_FEATURES, biases[level], (thresholds or {}).get(level, 0.5)
            )
            for level in FITTED_LEVELS
        },
    )


COPY, EDITED, SAME_ITEM, SIMILAR = FITTED_LEVELS
ROW = np.zeros((1, PAIR_FEATURES))


def test_the_closest_level_that_is_likely_enough_is_claimed() -> None:
    biases = {COPY: -4.0, EDITED: -1.0, SAME_ITEM: 1.0, SIMILAR: 3.0}
    [verdict] = judge(model(biases), ROW)
    assert verdict == (SAME_ITEM, pytest.approx(sigmoid(np.array(1.0))))
    [verdict] = judge(model(biases, {SAME_ITEM: 0.9}), ROW)
    assert verdict == (SIMILAR, pytest.approx(sigmoid(np.array(3.0))))
    [verdict] = judge(model(biases, {EDITED: 0.2}), ROW)
    assert verdict == (EDITED, pytest.approx(sigmoid(np.array(-1.0))))


def test_what_is_not_even_similar_is_none_with_the_rest_of_the_probability() -> None:
    [verdict] = judge(model(dict.fromkeys(FITTED_LEVELS, -2.0)), ROW)
    assert verdict == (Level.NONE, pytest.approx(1 - sigmoid(np.array(-2.0))))


def test_a_chance_of_just_the_threshold_is_claimed() -> None:
    assert judge(model(dict.fromkeys(FITTED_LEVELS, 0.0)), ROW)[0].level is COPY


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 8))
def test_a_copy_is_never_likelier_than_an_edit_nor_that_than_the_same_item(
    seed: int, count: int
) -> None:
    rng = np.random.default_rng(seed)
    levels = {
        level.value: LevelModel(
            tuple(rng.normal(0, 2, PAIR_FEATURES).tolist()), float(rng.normal())
        )
        for level in FITTED_LEVELS
    }
    rows = rng.random((count, PAIR_FEATURES))
    found = probabilities(Calibration("m", levels), rows)
    assert found.shape == (count, len(FITTED_LEVELS))
    assert (np.diff(found, axis=1) >= 0).all()
    assert ((found >= 0) & (found <= 1)).all()
    for verdict, row in zip(judge(Calibration("m", levels), rows), found, strict=True):
        expected = (
            1 - row[-1] if verdict.level is Level.NONE else row[FITTED_LEVELS.index(verdict.level)]
        )
        assert verdict.probability == pytest.approx(expected)
        assert verdict.level is not Level.EXACT


def test_a_fitted_calibration_tells_crops_from_strangers() -> None:
    """From facts to a verdict and back: what is fitted on some pairs holds for others."""

    def facts(seed: int, close: bool) -> Evidence:
        rng = np.random.default_rng(seed)
        layouts = np.stack([ZOOMED if close else layout(lambda x, y: scene(y, 1 - x))] * 20)
        return evidence(
            rng.uniform(0.5, 0.9, 20).astype(np.float32),
            verified(*[MIDDLE] * 20, score=rng.uniform(5, 20) if close else 0.2),
            SIDE,
            PICTURE,
            layouts,
        )

    rows = np.concatenate([pair_features(facts(seed, seed % 2 == 0)) for seed in range(10)])
    close = np.repeat([seed % 2 == 0 for seed in range(10)], 20)
    fitted = fit(rows, close, 0.01)
    never = msgspec.structs.replace(fitted, bias=-100.0)
    calibration = Calibration(
        "m", {level.value: never if level is COPY else fitted for level in FITTED_LEVELS}
    )
    near, far = (judge(calibration, pair_features(facts(seed, seed == 98))) for seed in (98, 99))
    assert {verdict.level for verdict in near} == {EDITED}
    assert {verdict.level for verdict in far} == {Level.NONE}


# calibration.json


def stored(folder: Path, calibration: Calibration) -> Path:
    (folder / CALIBRATION).write_bytes(msgspec.json.encode(calibration))
    return folder


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    levels = {
        level.value: LevelModel(tuple(rng.normal(size=PAIR_FEATURES).tolist()), 0.1, 0.7)
        for level in FITTED_LEVELS
    }
    calibration = Calibration("m", levels, 0.25, 0.2, "pairs")
    assert load_calibration(stored(tmp_path, calibration), "m") == calibration


def test_a_bundle_need_not_have_one(tmp_path: Path) -> None:
    assert load_calibration(tmp_path, "m") is None


def test_another_models_calibration_is_refused_and_says_how_to_make_one(tmp_path: Path) -> None:
    stored(tmp_path, model(dict.fromkeys(FITTED_LEVELS, 0.0)))
    with pytest.raises(ModelBundleError, match=r"of model m, the bundle is n: .likeness calibrate"):
        load_calibration(tmp_path, "n")


def test_missing_and_unknown_levels_are_refused(tmp_path: Path) -> None:
    levels = dict(model(dict.fromkeys(FITTED_LEVELS, 0.0)).levels)
    levels["exact"] = levels.pop("copy")
    with pytest.raises(ModelBundleError, match=r"the levels are .*exact"):
        load_calibration(stored(tmp_path, Calibration("m", levels)), "m")


def test_weights_for_other_features_are_refused(tmp_path: Path) -> None:
    levels = dict(model(dict.fromkeys(FITTED_LEVELS, 0.0)).levels)
    levels["similar"] = LevelModel((0.0,) * (PAIR_FEATURES - 1), 0.0)
    with pytest.raises(ModelBundleError, match=f"each level has {PAIR_FEATURES} weights"):
        load_calibration(stored(tmp_path, Calibration("m", levels)), "m")


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

"""The ranker: which stages run, what decides the order, and where common parts are found."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from console.evaluation.logistic_regression import fit
from likeness.descriptor_packing import cell_positions, pack
from likeness.embedding import Embedder
from likeness.feature_extraction import extract_features
from likeness.features import ImageFeatures
from likeness.model import Resize
from likeness.preprocessing import input_box
from likeness.proof.evidence import Evidence, pair_features
from likeness.proof.proofs import Proof
from likeness.proof.verdicts import FITTED_LEVELS, Calibration, Level, LevelModel
from likeness.records import WHOLE, Box
from likeness.rerank.profiles import Profile
from likeness.rerank.ranker import RankedCandidates, Ranker
from likeness.rerank.refinement import refine
from tests.image_features import (
    DIM,
    SIDE,
    Floats,
    descriptors,
    layout,
    made,
    near,
    spec,
    unit,
)

BUNDLED = Path(__file__).resolve().parents[2] / "layers" / "model"
SPEC = spec()
# row by row: the query's cell in the middle of the frame, three times as large
ZOOM, ZOOMED_FROM = 3, 5


def of_strength(strength: float, agreement: float) -> Evidence:
    """Pairs of which nothing but geometry and the layouts' agreement is known."""
    facts = dict.fromkeys(Evidence._fields, np.full(1, 0.5, np.float32))
    return Evidence(**facts)._replace(
        geometry=np.float32([strength]),
        aligned=np.float32([agreement]),
        in_place=np.float32([agreement]),
    )


def fitted_on(close: Sequence[Evidence], others: Sequence[Evidence]) -> LevelModel:
    rows = np.concatenate([pair_features(facts) for facts in (*close, *others)])
    return fit(rows, np.arange(len(rows)) < len(close))


PROVEN = [of_strength(strength, agreement) for strength in (10, 30) for agreement in (0.0, 1.0)]
UNPROVEN = [of_strength(strength, agreement) for strength in (0, 1, 4) for agreement in (0.0, 1.0)]
AGREEING = [facts for facts in PROVEN if facts.aligned[0] == 1]
OTHERS = [facts for facts in (*PROVEN, *UNPROVEN) if facts.aligned[0] < 1]
# what geometry proves is the same item, and pixels are asked where the layouts agree too
CALIBRATION = Calibration(
    SPEC.fingerprint,
    {level.value: fitted_on(PROVEN, UNPROVEN) for level in FITTED_LEVELS},
    fitted_on(AGREEING, [*OTHERS, *UNPROVEN]),
    refinement=0.5,
    geometry=0.1,
)
RANKER = Ranker(SPEC, CALIBRATION)
# calls any two pictures the same, so that it tells where their matches are
CREDULOUS = msgspec.structs.replace(
    CALIBRATION,
    levels={
        name: msgspec.structs.replace(fitted, threshold=0.0)
        for name, fitted in CALIBRATION.levels.items()
    },
)
PROFILES = [Profile.NONE, Profile.FAST, Profile.PRECISE]


def stored(appearance: ImageFeatures, **of: Any) -> ImageFeatures:
    """As the index keeps it: without the descriptors that were not packed."""
    return msgspec.structs.replace(appearance, local=None, **of)


def at_cosines(query: ImageFeatures, cosines: Sequence[float]) -> list[ImageFeatures]:
    """Strangers to the query, but for their vectors."""
    return [
        stored(made(100 + number), vector=near(query.vector, cosine, number))
        for number, cosine in enumerate(cosines)
    ]


def moved(query: ImageFeatures, right: int, down: int) -> ImageFeatures:
    """The frame moved over the same scene: all descriptors lie further right and down."""
    assert query.local is not None
    local = descriptors(77).reshape(SIDE, SIDE, DIM)
    local[down:, right:] = query.local.reshape(SIDE, SIDE, DIM)[: SIDE - down, : SIDE - right]
    return made(78, local=local.reshape(-1, DIM))


def zoomed(query: ImageFeatures) -> ImageFeatures:
    """Cells 5 to 9 of the query, each in the middle of 3 × 3 cells."""
    assert query.local is not None
    local = np.zeros((SIDE, SIDE, DIM), np.float32)
    part = slice(ZOOMED_FROM, ZOOMED_FROM + 5)
    local[1::3, 1::3] = query.local.reshape(SIDE, SIDE, DIM)[part, part]
    return made(79, local=local.reshape(-1, DIM), packed=salient(local))


def keeping(query: ImageFeatures, salience: NDArray[np.floating]) -> ImageFeatures:
    """With other cells (SIDE²,) as the most salient ones."""
    assert query.local is not None
    return msgspec.structs.replace(query, packed=pack(query.local, salience))


def keeping_the_middle(query: ImageFeatures) -> ImageFeatures:
    """With the cells that `zoomed` shows."""
    x, y = cell_positions(SIDE).T - ZOOMED_FROM
    inside = (x >= 0) & (x < 5) & (y >= 0) & (y < 5)
    return keeping(query, inside.astype(np.float32))


def salient(local: Floats) -> bytes:
    rows = local.reshape(-1, DIM)
    return pack(rows, np.linalg.norm(rows, axis=1))


def one_proof(query: ImageFeatures, candidate: ImageFeatures, ranker: Ranker = RANKER) -> Proof:
    [proof] = ranker.prove(query, [candidate])
    return proof


def suspicion(proof: Proof) -> tuple[Level, bool]:
    return proof.verdict.level, proof.suspected


ALIKE, OTHER_COLOURS = (Level.SAME_ITEM, True), (Level.SAME_ITEM, False)

# Proofs on constructed truth


@pytest.mark.parametrize("seed", range(6))
def test_a_pair_has_one_verdict_whichever_is_the_query(seed: int) -> None:
    query = made(seed, sha256=None)
    others = [moved(query, 2, 1), zoomed(query), made(seed + 50), query]
    for candidate in others:
        there = one_proof(query, stored(candidate))
        back = one_proof(candidate, stored(query))
        assert (there.verdict, there.suspected) == (back.verdict, back.suspected)
        assert (there.overlap_query, there.overlap_target) == (
            *(back.overlap_target, back.overlap_query),
        )
        assert (there.boxes or ())[::-1] == (back.boxes or ())
    several = RANKER.prove(query, [stored(candidate) for candidate in others])
    assert several == [one_proof(query, stored(candidate)) for candidate in others]


def test_a_moved_frame_is_found_with_its_overlap_and_the_boxes_of_what_both_show() -> None:
    # only of the 120 common cells are 64 sure to be enough to reach its corners
    query, candidate = keeping(made(1), rim_first(0, 9, 0, 11)), moved(made(1), 4, 2)
    proof = one_proof(query, stored(keeping(candidate, rim_first(4, 13, 2, 13))))
    assert proof.overlap_query == pytest.approx(10 / 14 * 12 / 14, abs=0.03)
    assert proof.overlap_target == pytest.approx(10 / 14 * 12 / 14, abs=0.03)
    assert proof.boxes is not None
    assert proof.boxes[0] == pytest.approx((0, 0, 10 / 14, 12 / 14))
    assert proof.boxes[1] == pytest.approx((4 / 14, 2 / 14, 1, 1))
    assert proof.verdict.level is Level.SAME_ITEM


def rim_first(left: int, right: int, top: int, bottom: int) -> Floats:
    """A salience that keeps the rim of these cells, and so their box."""
    x, y = cell_positions(SIDE).T
    inside = (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
    rim = (x == left) | (x == right) | (y == top) | (y == bottom)
    return inside.astype(np.float32) * (1 + rim)


def test_a_zoom_is_found_with_its_overlap_and_boxes() -> None:
    query = keeping_the_middle(made(2))
    proof = one_proof(query, stored(zoomed(query)))
    assert proof.inliers == 25
    assert proof.overlap_query == pytest.approx((14 / 3 / 14) ** 2, abs=0.02)
    assert proof.overlap_target == 1
    assert proof.boxes is not None
    assert proof.boxes[0] == pytest.approx((5 / 14, 5 / 14, 10 / 14, 10 / 14))
    assert proof.boxes[1] == pytest.approx((1 / 14, 1 / 14, 1, 1))


def test_boxes_are_of_the_whole_pictures_whatever_part_was_looked_at() -> None:
    """First within what the network saw of the part, then within the part."""
    query = keeping_the_middle(made(2, box=Box(0.5, 0.2, 0.9, 0.6), seen=Box(0.25, 0.0, 0.75, 1.0)))
    candidate = stored(zoomed(query), seen=Box(0.0, 0.0, 1.0, 2.0))  # a pad below
    proof = one_proof(query, candidate)
    assert proof.boxes is not None
    across, down = (0.25 + np.array([5, 10]) / 28), np.array([5, 10]) / 14
    left, right = 0.5 + 0.4 * across
    top, bottom = 0.2 + 0.4 * down
    assert proof.boxes[0] == pytest.approx((left, top, right, bottom))
    assert proof.boxes[1] == pytest.approx((1 / 14, 2 / 14, 1, 1))


def test_the_same_descriptors_in_shuffled_places_prove_nothing() -> None:
    query = made(3)
    assert query.local is not None
    shuffled = np.random.default_rng(3).permutation(query.local)
    mixed, same = RANKER.prove(query, [stored(made(3, local=shuffled, sha256="0")), stored(query)])
    assert same.geometry > 5 * mixed.geometry
    assert same.inliers > 5 * mixed.inliers


def test_matches_by_chance_are_shown_as_no_proof() -> None:
    query, candidate = made(3), stored(moved(made(3), 1, 1))
    told = one_proof(query, candidate, Ranker(SPEC, CREDULOUS))
    assert told.boxes and told.overlap_query > 0.5
    doubtful = {
        name: msgspec.structs.replace(fitted, threshold=1.1)
        for name, fitted in CALIBRATION.levels.items()
    }
    denied = one_proof(
        query, candidate, Ranker(SPEC, msgspec.structs.replace(CALIBRATION, levels=doubtful))
    )
    assert denied.inliers == told.inliers > 0
    assert (denied.boxes, denied.overlap_query, denied.overlap_target) == (None, 0, 0)


def test_a_vector_alone_is_never_called_the_same() -> None:
    words = ImageFeatures(made(3).vector)
    ranked = RANKER.rank([words], [stored(made(3)), stored(made(4))], Profile.PRECISE, 2)
    assert ranked.order.tolist() == [0, 1]
    assert not ranked.proofs


def test_a_stranger_has_no_overlap_and_no_boxes() -> None:
    """Without a match the best guess is that nothing moved, which is no overlap."""
    proof = one_proof(made(4), stored(made(5)))
    assert (proof.overlap_query, proof.overlap_target) == (0, 0)
    assert proof.boxes is None
    assert proof.inliers == 0
    assert proof.verdict.level is Level.NONE


def test_the_same_bytes_are_exact_and_nothing_else_is() -> None:
    query = made(6)
    part = Box(0.0, 0.0, 0.5, 0.5)
    same, other, unnamed, cut = RANKER.prove(
        query,
        [
            stored(query),
            stored(query, sha256="another"),
            stored(query, sha256=None),
            stored(query, box=part),
        ],
    )
    assert same.verdict == (Level.EXACT, 1.0)
    assert {suspicion(other), suspicion(unnamed), suspicion(cut)} == {ALIKE}
    of_part = msgspec.structs.replace(query, box=part)
    assert suspicion(one_proof(of_part, stored(query))) == ALIKE
    assert suspicion(one_proof(of_part, stored(of_part))) == ALIKE
    nameless = msgspec.structs.replace(query, sha256=None)
    assert suspicion(one_proof(nameless, stored(nameless))) == ALIKE


def test_another_layout_of_colours_is_no_reason_to_ask_the_pixels() -> None:
    query = made(7)
    copy, recoloured = RANKER.prove(
        query, [stored(query, sha256=None), stored(query, sha256=None, colours=layout(8))]
    )
    assert suspicion(copy) == ALIKE
    assert suspicion(recoloured) == OTHER_COLOURS


@pytest.mark.parametrize("unknown", [None, b"", b"of another size"])
def test_colours_that_are_unknown_are_alike_to_none(unknown: bytes | None) -> None:
    known = made(9, sha256=None)
    bare = msgspec.structs.replace(known, colours=unknown)
    assert suspicion(one_proof(known, stored(known))) == ALIKE
    for query, candidate in ((known, bare), (bare, known), (bare, bare)):
        assert suspicion(one_proof(query, stored(candidate))) == OTHER_COLOURS


@pytest.mark.parametrize("shade", [0, 255])
def test_a_picture_of_one_shade_ends_at_similar(shade: int) -> None:
    flat = made(9, sha256=None, colours=bytes([shade]) * len(layout(0)))
    assert one_proof(flat, stored(flat)).verdict.level is Level.SIMILAR
    assert one_proof(flat, stored(made(9, sha256=None))).verdict.level is Level.SIMILAR


def test_unknown_colours_count_as_black_beside_white() -> None:
    """Nothing of them agrees."""
    known = made(9, sha256=None)
    black, white = (
        msgspec.structs.replace(known, colours=bytes([shade]) * len(layout(0)))
        for shade in (0, 255)
    )
    bare = stored(known, colours=None)
    np.testing.assert_allclose(
        RANKER.pair_features(known, [bare]), RANKER.pair_features(black, [stored(white)]), atol=1e-6
    )


def test_unknown_colours_of_one_candidate_leave_the_others_theirs() -> None:
    query = made(9, sha256=None)
    proofs = RANKER.prove(query, [stored(query), stored(query, colours=None), stored(query)])
    assert [suspicion(proof) for proof in proofs] == [ALIKE, OTHER_COLOURS, ALIKE]


def test_what_has_no_descriptors_is_judged_by_the_rest() -> None:
    query = made(10)
    bare = stored(query, packed=None, sha256=None)
    without, with_them = RANKER.prove(query, [bare, stored(query)])
    assert (without.geometry, without.inliers, without.boxes) == (0, 0, None)
    assert with_them.geometry > 20
    alone = one_proof(query, bare)  # also where none of the list has any
    assert alone[1:] == without[1:]
    assert alone.verdict.probability == pytest.approx(without.verdict.probability, abs=1e-5)
    assert one_proof(ImageFeatures(query.vector), stored(query)).geometry == 0
    # a query that was not just looked at has those that were kept
    assert one_proof(stored(query), stored(query)).inliers == 64


def test_a_model_without_local_descriptors_still_tells_exact_from_the_rest() -> None:
    plain = spec(with_local=False)
    ranker = Ranker(plain, msgspec.structs.replace(CALIBRATION, model=plain.fingerprint))
    query = made(11, local=None)
    same, other = ranker.prove(query, [query, made(12, local=None)])
    assert same.verdict.level is Level.EXACT
    assert other.verdict.level is Level.NONE
    ranked = ranker.rank([query], [query, made(12, local=None)], Profile.PRECISE, 10)
    assert ranked.proofs[0] == same
    assert ranked.order.tolist() == [0, 1]


def test_without_a_calibration_nothing_is_proven() -> None:
    assert Ranker(SPEC, None).prove(made(1), [stored(made(1))]) == []
    assert RANKER.prove(made(1), []) == []


# Proofs on real pictures through the bundled network, as each resize rule shows them


@pytest.fixture(scope="module", params=["squash", "crop", "pad"])
def embedder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    folder = tmp_path_factory.mktemp(request.param)
    manifest = json.loads((BUNDLED / "model.json").read_bytes())
    manifest["resize"]["rule"] = request.param
    (folder / "model.json").write_text(json.dumps(manifest))
    (folder / "image.onnx").symlink_to(BUNDLED / "image.onnx")
    return Embedder(folder)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    skimage = pytest.importorskip("skimage")
    with Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png") as image:
        return image.convert("RGB").crop((0, 0, 512, 400))


def assert_same_place(proof: Proof, part: Box) -> None:
    """`part` of the query's picture is the whole of the candidate's: boxes map onto each other."""
    assert proof.boxes is not None
    mine, theirs = (np.array(box).reshape(2, 2) for box in proof.boxes)
    low, size = np.array(part[:2]), np.array([part.right - part.left, part.bottom - part.top])
    # a cell of 14, of either frame
    np.testing.assert_allclose((mine - low) / size, theirs, atol=0.13)
    assert Box(*mine.ravel()).area > 0.3 * part.area


def test_a_crop_is_found_where_it_was_cut_out(embedder: Embedder, photo: Image.Image) -> None:
    part = Box(0.2, 0.1, 0.8, 0.85)
    width, height = photo.size
    cut = photo.crop(
        (
            int(part.left * width),
            int(part.top * height),
            int(part.right * width),
            int(part.bottom * height),
        )
    )
    query, candidate = extract_features(embedder, photo), extract_features(embedder, cut)
    proof = one_proof(query, stored(candidate), Ranker(embedder.spec, CREDULOUS))
    assert proof.inliers > 15
    assert_same_place(proof, part)
    rule = embedder.spec.resize.rule
    if rule == "squash":  # the others' frames are not the pictures
        assert proof.overlap_query == pytest.approx(part.area, abs=0.08)
        assert proof.overlap_target > 0.9


def test_a_boxed_query_is_found_in_the_whole(embedder: Embedder, photo: Image.Image) -> None:
    part = Box(0.15, 0.05, 0.85, 0.9)
    whole, query = (extract_features(embedder, photo, box, "its sha256") for box in (WHOLE, part))
    proof = one_proof(query, stored(whole), Ranker(embedder.spec, CALIBRATION))
    assert proof.inliers > 15
    assert proof.boxes is not None
    # both boxes are of the same picture
    np.testing.assert_allclose(proof.boxes[0], proof.boxes[1], atol=0.1)
    assert proof.boxes[0].left > part.left - 1e-6
    assert proof.boxes[0].bottom < part.bottom + 1e-6
    assert proof.verdict.level is not Level.EXACT


def test_pictures_of_other_shapes_are_laid_over_each_other(
    embedder: Embedder, photo: Image.Image
) -> None:
    """A tall part of a wide picture: what a pad or a crop shows of the two differs most."""
    tall = photo.crop((130, 0, 390, 400))
    query, candidate = extract_features(embedder, photo), extract_features(embedder, tall)
    proof = one_proof(query, stored(candidate), Ranker(embedder.spec, CALIBRATION))
    assert proof.inliers > 10
    assert_same_place(proof, Box(130 / 512, 0, 390 / 512, 1))


# Orders


def test_no_rerank_is_the_cosine_alone() -> None:
    query = made(20)
    candidates = [*at_cosines(query, [0.3, 0.6]), stored(query, vector=near(query.vector, 0.1, 9))]
    ranked = RANKER.rank([query], candidates, Profile.NONE, 10)
    assert ranked.order.tolist() == [1, 0, 2]
    np.testing.assert_allclose(ranked.score, [0.3, 0.6, 0.1], atol=1e-6)
    assert set(ranked.stages) == {"cosine"}
    assert ranked.proofs == {}


def test_without_a_calibration_every_profile_is_the_cosine_alone() -> None:
    query = made(20)
    candidates = at_cosines(query, [0.3, 0.6, 0.1])
    expected = RANKER.rank([query], candidates, Profile.NONE, 10)
    for profile in PROFILES:
        found = Ranker(SPEC, None).rank([query], candidates, profile, 10)
        assert found.order.tolist() == expected.order.tolist()
        np.testing.assert_array_equal(found.score, expected.score)
        assert (set(found.stages), found.proofs, found.skipped) == ({"cosine"}, {}, [])


def crowded() -> tuple[ImageFeatures, list[ImageFeatures]]:
    """A loner that is nearest, and a crowd whose members support each other."""
    query = made(21)
    centre = near(query.vector, 0.75, 1)
    crowd = [
        stored(made(200 + n), vector=near(centre, 0.95, n), packed=made(200 + n).packed)
        for n in range(8)
    ]
    best = max(float(member.vector @ query.vector) for member in crowd)
    loner = stored(made(300), vector=near(query.vector, best + 0.005, 99))
    return query, [loner, *crowd]


def test_fast_lets_the_members_of_a_crowd_lift_each_other() -> None:
    query, candidates = crowded()
    assert RANKER.rank([query], candidates, Profile.NONE, 9).order[0] == 0
    ranked = RANKER.rank([query], candidates, Profile.FAST, 9)
    assert ranked.order[0] != 0
    vectors = np.stack([candidate.vector for candidate in candidates])
    refined = refine(query.vector, vectors)
    np.testing.assert_allclose(ranked.stages["refinement"], refined, atol=1e-6)
    np.testing.assert_allclose(ranked.score, (ranked.stages["cosine"] + refined) / 2, atol=1e-6)


def test_the_calibration_says_how_much_refinement_counts() -> None:
    query, candidates = crowded()
    for share in (0.0, 1.0):
        ranker = Ranker(SPEC, msgspec.structs.replace(CALIBRATION, refinement=share))
        ranked = ranker.rank([query], candidates, Profile.FAST, 9)
        expected = ranked.stages["refinement" if share else "cosine"]
        np.testing.assert_allclose(ranked.score, expected, atol=1e-6)


def with_a_proof() -> tuple[ImageFeatures, list[ImageFeatures]]:
    """The third nearest shows the same."""
    query = made(22)
    candidates = at_cosines(query, [0.6, 0.55, 0.5, 0.45])
    candidates[2] = stored(query, vector=candidates[2].vector, sha256=None)
    return query, candidates


def test_precise_puts_what_geometry_proves_first_and_fast_only_says_so() -> None:
    query, candidates = with_a_proof()
    fast = RANKER.rank([query], candidates, Profile.FAST, 4)
    precise = RANKER.rank([query], candidates, Profile.PRECISE, 4)
    assert fast.order.tolist() == [0, 1, 2, 3]
    assert precise.order.tolist() == [2, 0, 1, 3]
    assert fast.proofs[2] == precise.proofs[2]
    assert suspicion(precise.proofs[2]) == ALIKE
    np.testing.assert_allclose(
        precise.score, fast.score + 0.1 * precise.stages["geometry"], rtol=1e-5
    )
    np.testing.assert_allclose(precise.cosine, [0.6, 0.55, 0.5, 0.45], atol=1e-6)


def verified(ranked: RankedCandidates) -> NDArray[np.bool_]:
    return ~np.isnan(ranked.stages["geometry"])


def test_fast_verifies_what_is_shown_and_precise_everything() -> None:
    query, candidates = with_a_proof()
    fast = RANKER.rank([query], candidates, Profile.FAST, 2)
    assert set(fast.proofs) == {0, 1}
    assert verified(fast).tolist() == [True, True, False, False]
    precise = RANKER.rank([query], candidates, Profile.PRECISE, 2)
    assert verified(precise).all()
    assert set(precise.proofs) == set(precise.order[:2].tolist())
    assert RANKER.rank([query], candidates, Profile.FAST, 0).proofs == {}


@pytest.mark.parametrize(
    ("cosines", "clear"),
    [
        ([0.97, 0.6, 0.5], True),
        ([0.97, 0.9, 0.5], False),  # not far enough ahead
        ([0.9, 0.6, 0.5], False),  # not near enough
        ([0.97], True),
    ],
)
def test_of_a_clear_winner_only_what_is_shown_is_verified(
    cosines: list[float], clear: bool
) -> None:
    query = made(23)
    ranked = RANKER.rank([query], at_cosines(query, cosines), Profile.PRECISE, 1)
    assert verified(ranked).sum() == (1 if clear else len(cosines))
    assert set(ranked.proofs) == {0}


def test_a_winner_is_not_clear_where_refinement_hides_one_as_near() -> None:
    """The first's crowd, all further away, stands between it and a rival on the other side."""
    query = made(24)
    first = near(query.vector, 0.98, 1)
    aside = unit(first - 0.98 * query.vector)
    across = [near(aside, 0.95, seed) for seed in range(2, 10)]
    across = [unit(way - (way @ query.vector) * query.vector) for way in across]
    crowd = [unit(0.86 * query.vector + 0.51 * way) for way in across]
    rival = unit(0.98 * query.vector - 0.2 * aside)
    vectors = [first, *crowd, rival]
    candidates = at_cosines(query, [0.0] * len(vectors))
    candidates = [
        msgspec.structs.replace(candidate, vector=v)
        for candidate, v in zip(candidates, vectors, strict=True)
    ]
    ranker = Ranker(SPEC, msgspec.structs.replace(CALIBRATION, refinement=1.2, geometry=0.0))
    ranked = ranker.rank([query], candidates, Profile.PRECISE, 1)
    assert (ranked.order[0], ranked.order[-1]) == (0, 9)
    assert ranked.cosine[0] - ranked.cosine[ranked.order[1]] > 0.1
    assert ranked.cosine[-1] == pytest.approx(ranked.cosine[0], abs=0.01)
    assert verified(ranked).all()


def test_each_candidate_is_judged_by_the_view_that_it_is_nearest_to() -> None:
    whole, part = made(25), made(26, box=Box(0.5, 0.5, 1.0, 1.0))
    candidates = [
        stored(whole, vector=near(whole.vector, 0.8, 1), sha256=None),
        stored(part, vector=near(part.vector, 0.9, 2), sha256=None, box=WHOLE),
        stored(made(27), vector=near(whole.vector, 0.3, 3)),
    ]
    ranked = RANKER.rank([whole, part], candidates, Profile.PRECISE, 3)
    assert ranked.view[:2].tolist() == [0, 1]
    np.testing.assert_allclose(ranked.cosine[:2], [0.8, 0.9], atol=1e-6)
    for row, (view, candidate) in enumerate(zip((whole, part), candidates, strict=False)):
        assert ranked.proofs[row].inliers == one_proof(view, candidate).inliers == 64
    boxes = ranked.proofs[1].boxes
    assert boxes is not None
    assert boxes[0].left >= 0.5
    assert boxes[0].top >= 0.5


def test_a_second_view_adds_and_takes_nothing_from_the_first_ones_finds() -> None:
    query, candidates = with_a_proof()
    alone = RANKER.rank([query], candidates, Profile.PRECISE, 4)
    twice = RANKER.rank([query, query], candidates, Profile.PRECISE, 4)
    np.testing.assert_allclose(twice.score, alone.score, rtol=1e-6)
    assert set(twice.view.tolist()) == {0}


# Time


def left(*seconds: float) -> Callable[[], float]:
    """What is left at each time of asking."""
    return iter(seconds).__next__


@pytest.mark.parametrize("profile", [Profile.FAST, Profile.PRECISE])
def test_without_time_both_stages_are_skipped_and_named(profile: Profile) -> None:
    query, candidates = with_a_proof()
    ranked = RANKER.rank([query], candidates, profile, 4, lambda: 0.0)
    assert ranked.skipped == ["refinement", "geometry"]
    assert set(ranked.stages) == {"cosine"}
    assert ranked.proofs == {}
    assert ranked.order.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(ranked.score, [0.6, 0.55, 0.5, 0.45], atol=1e-6)


def test_a_deadline_that_has_passed_is_as_no_time() -> None:
    query, candidates = with_a_proof()
    ranked = RANKER.rank([query], candidates, Profile.PRECISE, 4, lambda: -5.0)
    assert ranked.skipped == ["refinement", "geometry"]


def test_each_stage_asks_for_itself() -> None:
    query, candidates = with_a_proof()
    first = RANKER.rank([query], candidates, Profile.PRECISE, 4, left(1.0, 0.0))
    assert first.skipped == ["geometry"]
    assert set(first.stages) == {"cosine", "refinement"}
    second = RANKER.rank([query], candidates, Profile.PRECISE, 4, left(0.0, 1.0))
    assert second.skipped == ["refinement"]
    assert set(second.stages) == {"cosine", "geometry"}
    assert second.order[0] == 2


def test_where_no_stage_would_run_none_is_skipped() -> None:
    query, candidates = with_a_proof()
    assert RANKER.rank([query], candidates, Profile.NONE, 4, lambda: 0.0).skipped == []
    assert Ranker(SPEC, None).rank([query], candidates, Profile.FAST, 4, lambda: 0.0).skipped == []


# Short lists


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("views", [1, 2])
def test_no_candidates_are_no_error(profile: Profile, views: int) -> None:
    ranked = RANKER.rank([made(1), made(2)][:views], [], profile, 10, lambda: 0.0)
    for values in (ranked.order, ranked.score, ranked.cosine, ranked.view):
        assert values.shape == (0,)
    assert (ranked.proofs, ranked.skipped) == ({}, [])


@pytest.mark.parametrize("profile", PROFILES)
def test_one_candidate_keeps_its_place(profile: Profile) -> None:
    query = made(28)
    ranked = RANKER.rank([query], at_cosines(query, [0.4]), profile, 10)
    assert ranked.order.tolist() == [0]
    assert ranked.score[0] == pytest.approx(0.4, abs=1e-6)
    assert set(ranked.proofs) == (set() if profile is Profile.NONE else {0})


# Whatever the list


def any_list(seed: int, count: int, zeros: bool) -> tuple[list[ImageFeatures], list[ImageFeatures]]:
    """One or two views; strangers and candidates that show the same, some without parts."""
    rng = np.random.default_rng(seed)
    views = [made(1), made(2, box=Box(0.2, 0.2, 0.8, 0.8))][: 1 + seed % 2]
    candidates = []
    for number in range(count):
        same = views[number % len(views)] if rng.random() < 0.3 else made(int(rng.integers(50)))
        candidate = stored(same, vector=unit(rng.normal(size=32) + 2 * rng.random() * same.vector))
        if rng.random() < 0.2:
            candidate = stored(candidate, packed=None)
        if rng.random() < 0.2:
            candidate = stored(candidate, colours=None)
        if zeros and rng.random() < 0.3:
            candidate = stored(candidate, vector=np.zeros(32, np.float32))
        candidates.append(candidate)
    return views, candidates


def assert_same(
    one: RankedCandidates, rows: Sequence[int], other: RankedCandidates, others: Sequence[int]
) -> None:
    """What was found of some rows of one list is what was found of rows of another."""
    np.testing.assert_allclose(one.score[rows], other.score[others], atol=1e-4)
    np.testing.assert_allclose(one.cosine[rows], other.cosine[others], atol=1e-5)
    for name, scores in one.stages.items():
        np.testing.assert_allclose(scores[rows], other.stages[name][others], atol=1e-4)
    for row, its in zip(rows, others, strict=True):
        mine, theirs = one.proofs.get(row), other.proofs.get(its)
        assert (mine is None) == (theirs is None)
        if mine and theirs:
            assert (mine.verdict.level, mine.inliers) == (theirs.verdict.level, theirs.inliers)
            assert mine.boxes == theirs.boxes


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 25), profile=st.sampled_from(PROFILES))
def test_the_order_of_the_candidates_changes_nothing_that_is_found_of_each(
    seed: int, count: int, profile: Profile
) -> None:
    views, candidates = any_list(seed, count, zeros=False)
    shuffle = np.random.default_rng(seed).permutation(count).tolist()
    # all are shown: which of equals is shown may depend on where it stands
    before = RANKER.rank(views, candidates, profile, count)
    after = RANKER.rank(views, [candidates[row] for row in shuffle], profile, count)
    assert_same(after, range(count), before, shuffle)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 12), profile=st.sampled_from(PROFILES))
def test_candidates_that_stand_in_the_list_twice_are_found_the_same(
    seed: int, count: int, profile: Profile
) -> None:
    views, candidates = any_list(seed, count, zeros=False)
    ranked = RANKER.rank(views, [*candidates, *candidates], profile, 2 * count)
    assert_same(ranked, range(count), ranked, range(count, 2 * count))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 12),
    shown=st.integers(0, 15),
    profile=st.sampled_from(PROFILES),
)
def test_every_candidate_is_ranked_once_by_finite_falling_scores(
    seed: int, count: int, shown: int, profile: Profile
) -> None:
    views, candidates = any_list(seed, count, zeros=True)
    ranked = RANKER.rank(views, candidates * 2, profile, shown)
    assert sorted(ranked.order.tolist()) == list(range(2 * count))
    assert np.isfinite(ranked.score).all()
    assert (np.diff(ranked.score[ranked.order]) <= 0).all()
    for row, proof in ranked.proofs.items():
        assert 0 <= proof.verdict.probability <= 1
        assert 0 <= proof.overlap_query <= 1
        assert 0 <= proof.overlap_target <= 1
        assert ranked.stages["geometry"][row] >= 0
        assert proof.geometry >= 0
        assert proof.boxes is None or proof.inliers
        for box in proof.boxes or ():
            assert 0 <= box.left < box.right <= 1
            assert 0 <= box.top < box.bottom <= 1
    if profile is not Profile.NONE and count:
        assert len(ranked.proofs) >= min(shown, 2 * count)


def test_equal_scores_keep_the_order_of_the_candidates() -> None:
    # its cosines are exact: of others, the last bit depends on the place in the list
    axis = np.eye(32, dtype=np.float32)[0]
    query = made(30, vector=axis)
    candidates = at_cosines(query, [0.25, 0.5]) * 50
    order = RANKER.rank([query], candidates, Profile.NONE, 100).order
    assert order.tolist() == [*range(1, 100, 2), *range(0, 100, 2)]


def test_features_are_what_verdicts_rest_on() -> None:
    query, candidates = with_a_proof()
    rows = RANKER.pair_features(query, candidates)
    assert rows.shape[0] == 4
    assert np.isfinite(rows).all()
    assert not math.isclose(float(rows[2] @ rows[2]), float(rows[1] @ rows[1]), rel_tol=0.05)


def test_seen_of_a_crop_is_what_the_pictures_boxes_start_from() -> None:
    """As the index restores it: of a wide picture a crop sees the middle."""
    of = spec(Resize("crop"))
    query = keeping_the_middle(made(2, seen=input_box((400, 200), of)))
    boxes = one_proof(query, stored(zoomed(query)), Ranker(of, CALIBRATION)).boxes
    assert boxes is not None
    assert boxes[0] == pytest.approx((0.25 + 5 / 28, 5 / 14, 0.25 + 10 / 28, 10 / 14))

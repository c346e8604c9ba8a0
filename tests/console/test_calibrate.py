"""`likeness calibrate`, on drawn pictures."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from rich.console import Console
from typer.testing import CliRunner

from console.app import app
from console.evaluation import calibration_pairs, calibration_report, calibrator
from console.evaluation.calibration_pairs import NO_PROOF, ORDER, Pairs
from console.evaluation.datasets import DatasetError, Item
from console.evaluation.edits import EDITS
from likeness.embedding import Embedder
from likeness.model import load_spec
from likeness.proof.verdicts import CALIBRATION, Level, LevelModel, load_calibration
from tests.pictures import encoded, picture
from tests.service import FIXED_FILTERS

PICTURES = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(PICTURES):
        (folder / f"{seed:02}.png").write_bytes(encoded(picture(seed, 240, 180)))
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXED_FILTERS, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def pairs(folder: Path) -> Pairs:
    items = [Item(path, path.stem[0], None, None) for path in sorted(folder.iterdir())]
    return calibration_pairs.make_pairs(
        items, Embedder(FIXED_FILTERS), PICTURES, 0, lambda n: n, pixels=False
    )


def test_the_command_writes_what_the_service_reads(folder: Path, bundle: Path) -> None:
    arguments = ["calibrate", str(folder), "--model", str(bundle), "--pictures", "20"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "called right" in done.output
    model = load_spec(bundle).fingerprint
    found = load_calibration(bundle, model)
    assert found is not None
    assert found.made_from.endswith("20 images")


def test_a_dry_run_writes_nothing_and_another_models_calibration_is_no_error(
    folder: Path, bundle: Path
) -> None:
    (bundle / CALIBRATION).write_text('{"model": "f", "levels": {}}')
    arguments = ["calibrate", str(folder), "--model", str(bundle), "--pictures", "20", "--dry-run"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert (bundle / CALIBRATION).read_text() == '{"model": "f", "levels": {}}'


def test_the_calibration_of_another_model_is_nothing_to_start_from(bundle: Path) -> None:
    (bundle / CALIBRATION).write_text('{"model": "f", "levels": {}}')
    assert calibrator.starting_point(bundle, load_spec(bundle).fingerprint) is None


def test_too_few_pictures_are_told(tmp_path: Path) -> None:
    items = []
    for seed in range(5):
        path = tmp_path / f"{seed}.png"
        path.write_bytes(encoded(picture(seed)))
        items.append(Item(path, None, None, None))
    with pytest.raises(DatasetError, match="20 are needed"):
        calibration_pairs.make_pairs(items, Embedder(FIXED_FILTERS), 300, 0, lambda n: n)


def test_unreadable_pictures_are_left_out(folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    items = [Item(bad, None, None, None)]
    items += [Item(path, None, None, None) for path in sorted(folder.iterdir())]
    numbered: list[int] = []

    def counted(numbers: Iterable[int]) -> Iterable[int]:
        numbered.extend(numbers)
        return numbered

    calibration_pairs.make_pairs(items, Embedder(FIXED_FILTERS), 21, 0, counted, False)
    assert numbered == list(range(25))  # the others are scenes


def test_what_was_learnt_from_half_holds_on_the_other_half(pairs: Pairs) -> None:
    tried = calibrator.held_out_result(pairs, "model")
    assert set(tried.edits) == {edit.name for edit in EDITS}
    assert all(found.error < 0.3 for found in tried.reliability.values())
    [family] = tried.families.values()
    assert family.found > 0.8
    assert family.suspected < family.found
    assert 0 < family.false[Level.SAME_ITEM].bound <= 1


def test_what_pixels_prove_is_the_verdict(pairs: Pairs) -> None:
    edited = calibrator.held_out_result(
        pairs._replace(proven=pairs.level, score=np.full(len(pairs.level), 9.0)), "model"
    )
    assert all(share == 1 for share in edited.edits.values())
    wrong = np.where(pairs.edited, NO_PROOF, ORDER[Level.EDITED])
    claims = calibrator.held_out_result(
        pairs._replace(proven=wrong, score=np.full(len(wrong), 9.0)), "model"
    )
    assert claims.false_edited == 1
    assert claims.right[Level.EDITED] == 0


def test_pixels_are_trusted_less_where_they_call_known_different_things_copies(
    pairs: Pairs,
) -> None:
    proven = np.full(len(pairs.level), ORDER[Level.COPY])
    scores = np.where(pairs.edited, 9.0, 3.0)
    claims = pairs._replace(proven=proven, score=scores)
    trusting = calibrator.fit_calibration(claims, "model", "")
    assert trusting.pixels == {}  # they may be duplicates that nobody has named
    known = claims._replace(apart=~pairs.edited)
    stricter = calibrator.fit_calibration(known, "model", "")
    assert all(3 < stricter.pixels[level] < 4 for level in (Level.COPY, Level.EDITED))
    assert calibrator.held_out_result(known, "model").false_edited == 0
    assert calibrator.held_out_result(known, "model").right[Level.COPY] == 1


def test_each_family_is_judged_by_what_the_others_taught(pairs: Pairs) -> None:
    names = np.array(["a", "b", "c", "d"])[pairs.image % 4]
    tried = calibrator.held_out_result(pairs._replace(family=names), "model")
    assert set(tried.families) == set(names)
    assert (
        sum(family.false[Level.COPY].of for family in tried.families.values())
        == (pairs.level > ORDER[Level.SAME_ITEM]).sum()
    )
    out = io.StringIO()
    calibration_report.show(tried, PICTURES, Console(file=out, width=150))
    assert all(f"{name}  " in out.getvalue() for name in names)


def test_labels_tell_what_is_similar(pairs: Pairs) -> None:
    assert (pairs.level == ORDER[Level.SIMILAR]).any()
    assert (pairs.level == ORDER[Level.NONE]).any()
    learnt = calibrator.fit_calibration(pairs, "model", "")
    assert learnt.levels[Level.SIMILAR] != learnt.levels[Level.SAME_ITEM]


def test_without_labels_similar_is_what_it_was(pairs: Pairs) -> None:
    unlabelled = pairs._replace(
        level=np.where(pairs.level == ORDER[Level.SIMILAR], ORDER[Level.NONE], pairs.level),
        labelled=pairs.edited,
    )
    known = calibrator.fit_calibration(pairs, "model", "")
    learnt = calibrator.fit_calibration(unlabelled, "model", "", known)
    assert learnt.levels[Level.SIMILAR] == known.levels[Level.SIMILAR]


def test_without_real_pairs_of_one_thing_the_same_item_is_what_it_was(pairs: Pairs) -> None:
    """Edits are no other photos of a thing."""
    known = calibrator.fit_calibration(pairs, "model", "")
    again = calibrator.fit_calibration(pairs, "model", "", known)
    assert again.levels[Level.SAME_ITEM] == known.levels[Level.SAME_ITEM]


def test_few_pairs_loosen_no_level(pairs: Pairs) -> None:
    """Different things called the same item: refused, until enough show it to be safe."""
    calibration = calibrator.fit_calibration(pairs, "model", "")
    weights = calibration.suspicion.weights
    strict = LevelModel((0.0,) * len(weights), -9.0)
    known = replace(calibration, levels=dict.fromkeys(calibration.levels, strict))
    one_thing = pairs._replace(
        level=np.where(~pairs.edited & (pairs.image % 3 > 0), ORDER[Level.SAME_ITEM], pairs.level),
        labelled=np.ones(len(pairs.level), bool),
    )
    learnt = calibrator.fit_calibration(one_thing, "model", "", known)
    different = one_thing.level > ORDER[Level.SAME_ITEM]
    assert 0 < different.sum() < 300
    assert learnt.levels[Level.SAME_ITEM].weights == strict.weights


def test_the_same_seed_gives_the_same_pairs(folder: Path) -> None:
    items = [Item(path, None, None, None) for path in sorted(folder.iterdir())]
    embedder = Embedder(FIXED_FILTERS)
    one, other = (
        calibration_pairs.make_pairs(items, embedder, 20, 7, lambda n: n, False) for _ in range(2)
    )
    np.testing.assert_array_equal(one.rows, other.rows)


def test_instances_are_the_same_item(folder: Path) -> None:
    items = [Item(path, None, "one thing", None) for path in sorted(folder.iterdir())]
    found = calibration_pairs.make_pairs(items, Embedder(FIXED_FILTERS), 20, 0, lambda n: n, False)
    assert set(found.level[~found.edited]) == {ORDER[Level.SAME_ITEM]}


def test_designs_are_variants_and_families_are_kept_apart(folder: Path) -> None:
    items = [
        Item(path, None, None, None, None, f"family {n % 2}", f"design {n // 2}")
        for n, path in enumerate(sorted(folder.iterdir()))
    ]
    found = calibration_pairs.make_pairs(items, Embedder(FIXED_FILTERS), 20, 0, lambda n: n, False)
    assert set(found.level[~found.edited]) == {ORDER[Level.VARIANT], ORDER[Level.NONE]}
    assert set(found.family) == {"family 0", "family 1"}

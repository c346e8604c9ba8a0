"""`likeness evaluate`, and what it reads, on drawn pictures and real networks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec import structs
from rich.progress import Progress

from console.demo import sample_images
from console.evaluation import calibrator, reporting, results
from console.evaluation.datasets import DatasetError, Item, divided, load
from console.evaluation.edits import EDITS
from console.evaluation.evaluator import Miss, Options, evaluate
from console.evaluation.gallery import build_gallery
from console.evaluation.k_reciprocal import reciprocal
from console.evaluation.metrics import Estimate, rank
from console.evaluation.queries import synthetic_queries
from console.evaluation.query_expansion import expand
from console.evaluation.results import Evaluation, drops
from likeness.embedding import Embedder
from likeness.model import load_spec
from likeness.proof.verdicts import Level
from likeness.settings import Limits
from tests.calibrations import calibration_of
from tests.pictures import jpeg, png
from tests.service import FIXED_FILTERS

BUNDLED = Path(__file__).parents[2] / "layers" / "model"
LIKENESS = (sys.executable, "-c", "from console.app import main; main()")
PROFILES = ["none", "fast", "precise"]


def likeness(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LIKENESS, "evaluate", *arguments],
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def silent(
    dataset: Path, options: Options, before: Evaluation | None = None
) -> tuple[Evaluation, list[Miss]]:
    with Progress(disable=True) as progress:
        return evaluate(dataset, options, progress, before)


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flat")
    for seed in range(12):
        (folder / f"{seed}.jpg").write_bytes(jpeg(seed, 200, 150))
    return folder


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three drawn shapes in five colours each, a folder for each shape."""
    return products_by("category", tmp_path_factory.mktemp("classes"))


def products_by(key: str, folder: Path) -> Path:
    for product in list(sample_images.products())[:15]:
        path = folder / product.metadata[key] / Path(product.key).name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(product.data)
    return folder


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our own network, with a calibration that no release of it changes."""
    bundle = tmp_path_factory.mktemp("bundle") / "ours"
    shutil.copytree(BUNDLED, bundle, ignore=shutil.ignore_patterns("calibration.json"))
    calibrator.write(calibration_of(load_spec(bundle)), bundle)
    return bundle


@pytest.fixture(scope="module")
def synthetic(
    flat: Path, calibrated: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Evaluation, list[Miss]]:
    queries = 2 * (1 + len(EDITS))
    return silent(flat, Options(calibrated, tmp_path_factory.mktemp("out"), True, None, queries))


@pytest.fixture(scope="module")
def labelled(
    classes: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Evaluation, list[Miss]]:
    return silent(classes, Options(FIXED_FILTERS, tmp_path_factory.mktemp("out")))


# --- datasets ---


def table(folder: Path, *rows: str) -> Path:
    """A CSV, and pictures for what it names."""
    for number, row in enumerate(rows[1:]):
        name = row.split(",")[0]
        (folder / name).write_bytes(png(number))
    file = folder / "labels.csv"
    file.write_text("\n".join(rows), encoding="utf-8-sig")
    return file


def test_a_flat_folder_has_no_labels(flat: Path) -> None:
    assert {(item.label, item.instance, item.split) for item in load(flat)} == {(None, None, None)}
    assert len(load(flat)) == 12


def test_folders_are_classes_unless_there_is_just_one(classes: Path, tmp_path: Path) -> None:
    assert {item.label for item in load(classes)} == {"mug", "lamp", "chair"}
    assert all(item.label == item.path.parent.name for item in load(classes))
    shutil.copytree(classes / "mug", tmp_path / "photos" / "mug")
    assert {item.label for item in load(tmp_path / "photos")} == {None}


def test_folders_that_are_named_as_splits_hold_the_classes(tmp_path: Path) -> None:
    for number, place in enumerate(("train/cat", "train/dog", "test/cat")):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "a.png").write_bytes(png(number))
    queries, gallery = divided(tmp_path)
    assert [(item.label, item.split) for item in queries] == [("cat", "test")]
    assert [(item.label, item.split) for item in gallery] == [("cat", "train"), ("dog", "train")]


def test_a_csv_tells_label_instance_and_split(tmp_path: Path) -> None:
    file = table(tmp_path, "path,split,instance,price,ignore", "a.png,test,x,1,y")
    assert load(file) == [Item(tmp_path / "a.png", None, "x", "test", "y")]


def test_a_csv_tells_family_and_design(tmp_path: Path) -> None:
    [item] = load(table(tmp_path, "path,family,design", "a.png,invoice,7"))
    assert (item.family, item.design) == ("invoice", "7")


def test_splits_say_who_is_searched_among_whom(tmp_path: Path) -> None:
    file = table(tmp_path, "path,split", "a.png,test", "b.png,iconic", "c.png,train", "d.png,val")

    def names(split: str | None) -> list[list[str]]:
        return [[item.path.name for item in items] for items in divided(file, split)]

    assert names(None) == [["a.png"], ["b.png", "c.png"]]
    assert names("test:iconic") == [["a.png"], ["b.png"]]
    assert names("train") == [["c.png"], ["c.png"]]


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (["file,label", "a.png,x"], "needs a column named path"),
        (["path,label"], "contains no images"),
        (["path,label", "a.png,x", "a.png,y"], "2 times"),
        (["path,label", "a.png,x", ",y"], "line 3: no path"),
    ],
)
def test_a_csv_that_is_none_is_told_so(tmp_path: Path, rows: list[str], complaint: str) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    file = tmp_path / "labels.csv"
    file.write_text("\n".join(rows))
    with pytest.raises(DatasetError, match=complaint):
        load(file)


def test_a_missing_picture_or_split_or_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("path\nnowhere.png\n")
    with pytest.raises(DatasetError, match=re.escape(str(tmp_path / "nowhere.png"))):
        load(file)
    file = table(tmp_path, "path,split", "a.png,test")
    with pytest.raises(DatasetError, match="no split val; it has test"):
        load(file, "val")
    with pytest.raises(DatasetError, match="neither a folder nor"):
        load(tmp_path / "gone.csv")
    file.write_bytes(b"path\n\xff\xfe.png\n")
    with pytest.raises(DatasetError, match="CSV in UTF-8"):
        load(file)


# --- labelled sets ---


def test_figures_are_those_of_the_vectors_themselves(
    labelled: tuple[Evaluation, list[Miss]], classes: Path
) -> None:
    """The whole path, index and all, agrees with cosines that are ranked by hand."""
    items, embedder = load(classes), Embedder(FIXED_FILTERS)
    pictures = [embedder.decode(i.path.read_bytes(), Limits())[0] for i in items]
    vectors = np.concatenate([embedder.embed([embedder.to_tensor(p)]) for p in pictures])
    labels = np.array([item.label for item in items])
    mine = rank(vectors @ vectors.T, labels[:, None] == labels, np.eye(len(items), dtype=bool))
    [found] = labelled[0].found
    metrics = found.profiles["none"]
    assert (found.relevance, found.queries, found.without_answer) == ("label", 15, 0)
    assert metrics.r_at_1.mean == pytest.approx(mine.at_1.mean())
    assert metrics.r_at_5.mean == pytest.approx(mine.at_5.mean())
    assert metrics.r_at_10.mean == pytest.approx(mine.at_10.mean())
    assert metrics.mean_ap.mean == pytest.approx(mine.average_precision.mean(), abs=1e-6)
    assert 0.2 < metrics.mean_ap.mean < 0.99  # so that there is something to get wrong


def test_without_a_calibration_only_stages_that_run_are_told(
    labelled: tuple[Evaluation, list[Miss]],
) -> None:
    found, _ = labelled
    assert found.calibration is None
    assert found.verdicts is None
    assert [(stage.name, stage.over) for stage in found.found[0].stages] == [
        ("none", None),
        ("subject crop", "none"),
        ("query expansion", "subject crop"),
        ("k-reciprocal", "subject crop"),
        ("diversity", "subject crop"),
    ]
    assert "likeness calibrate" in reporting.page(found, [])


def test_lines_of_what_no_profile_has_are_those_of_the_methods_themselves(
    labelled: tuple[Evaluation, list[Miss]], classes: Path
) -> None:
    """One view and a small gallery: what the searcher and the index give can be made by hand."""
    items, embedder = load(classes), Embedder(FIXED_FILTERS)
    pictures = [embedder.decode(i.path.read_bytes(), Limits())[0] for i in items]
    vectors = np.concatenate([embedder.embed([embedder.to_tensor(p)]) for p in pictures])
    labels = np.array([item.label for item in items])
    expanded, mutual = np.zeros((2, len(items), len(items)), np.float32)
    for row, vector in enumerate(vectors):
        others = np.flatnonzero(np.arange(len(items)) != row)
        others = others[np.argsort(-vectors[others] @ vector)]
        expanded[row] = vectors @ expand(vector, vectors[others])
        mutual[row, others] = reciprocal(vector, vectors[others])
    own = np.eye(len(items), dtype=bool)
    stages = {stage.name: stage for stage in labelled[0].found[0].stages}
    plain = rank(vectors @ vectors.T, labels[:, None] == labels, own)
    for name, scores in (("query expansion", expanded), ("k-reciprocal", mutual)):
        mine = rank(scores, labels[:, None] == labels, own)
        found, gain = stages[name], stages[name].mean_ap_gain
        assert found.r_at_1.mean == pytest.approx(mine.at_1.mean())
        assert gain
        gained = (mine.average_precision - plain.average_precision).mean()
        assert gain.mean == pytest.approx(gained, abs=1e-6)
        assert abs(gained) > 1e-3  # there is something to tell


def test_instances_and_labels_are_two_ways_to_be_right(tmp_path: Path) -> None:
    rows = [f"{n}.png,{'cat' if n < 4 else 'dog'},{n // 2 if n < 6 else ''}" for n in range(8)]
    file = table(tmp_path, "path,label,instance", *rows)
    evaluation, _ = silent(file, Options(FIXED_FILTERS, tmp_path))
    by = {found.relevance: found for found in evaluation.found}
    assert list(by) == ["instance", "label"]
    assert (by["instance"].queries, by["instance"].without_answer) == (6, 2)
    assert (by["label"].queries, by["label"].without_answer) == (8, 0)


def test_labels_that_repeat_the_instances_are_not_told_twice(tmp_path: Path) -> None:
    rows = [f"{n}.png,{n // 2},{n // 2}" for n in range(4)]
    evaluation, _ = silent(
        table(tmp_path, "path,label,instance", *rows), Options(FIXED_FILTERS, tmp_path)
    )
    assert [found.relevance for found in evaluation.found] == ["instance"]


def test_a_gallery_of_instances_is_searched_by_queries_of_labels(tmp_path: Path) -> None:
    rows = ("a.png,x,,test", "b.png,x,x,iconic", "c.png,y,y,iconic")
    evaluation, _ = silent(
        table(tmp_path, "path,label,instance,split", *rows), Options(FIXED_FILTERS, tmp_path)
    )
    assert [(found.relevance, found.queries) for found in evaluation.found] == [("label", 1)]


def test_what_is_to_be_ignored_is_neither_right_nor_wrong(tmp_path: Path) -> None:
    """The query is the same picture as the one that it ignores: that would else come first."""
    rows = ("a.png,x,test,{}", "b.png,x,iconic,", "c.png,y,iconic,")

    def r_at_1(ignore: str) -> float:
        file = table(tmp_path, "path,instance,split,ignore", *(r.format(ignore) for r in rows))
        shutil.copy(tmp_path / "c.png", tmp_path / "a.png")
        evaluation, _ = silent(file, Options(FIXED_FILTERS, tmp_path))
        return evaluation.found[0].stages[0].r_at_1.mean

    assert (r_at_1(""), r_at_1("y")) == (0, 1)


def test_what_nothing_answers_does_not_count(tmp_path: Path) -> None:
    file = table(tmp_path, "path,label", "a.png,x", "b.png,x", "c.png,alone")
    evaluation, _ = silent(file, Options(FIXED_FILTERS, tmp_path))
    [found] = evaluation.found
    assert (found.queries, found.without_answer) == (2, 1)


def test_a_set_that_nothing_answers_is_refused(tmp_path: Path) -> None:
    file = table(tmp_path, "path,label", "a.png,x", "b.png,y")
    with pytest.raises(DatasetError, match="no two images share"):
        silent(file, Options(FIXED_FILTERS, tmp_path))


def test_pictures_that_cannot_be_read_are_told_and_left_out(classes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    shutil.copytree(classes / "mug", folder / "mug")
    shutil.copytree(classes / "lamp", folder / "lamp")
    (folder / "mug" / "letter.jpg").write_bytes(b"Dear Sir or Madam")
    evaluation, _ = silent(folder, Options(FIXED_FILTERS, tmp_path / "out"))
    assert evaluation.found[0].queries == 10
    assert [line.split(":")[0] for line in evaluation.unreadable] == ["letter.jpg"] * 2


# --- synthetic queries ---


def test_every_edit_is_asked_and_found_as_it_should(
    synthetic: tuple[Evaluation, list[Miss]],
) -> None:
    found, _ = synthetic
    assert [(e.name, e.level, e.queries) for e in found.edits] == [
        ("unchanged", "exact", 2),
        *((edit.name, edit.level.value, 2) for edit in EDITS),
    ]
    by_name = {edit.name: edit.r_at_1 for edit in found.edits}
    for copied in ("unchanged", "jpeg", "smaller"):
        assert {value.mean for value in by_name[copied].values()} == {1.0}
    [by_original] = found.found
    of_edits = np.mean([edit.r_at_1["precise"].mean for edit in found.edits])
    assert by_original.profiles["precise"].r_at_1.mean == pytest.approx(of_edits)


def test_every_stage_has_its_gain_over_another(synthetic: tuple[Evaluation, list[Miss]]) -> None:
    [found] = synthetic[0].found
    assert [(stage.name, stage.over) for stage in found.stages] == [
        ("none", None),
        ("subject crop", "none"),
        ("query expansion", "subject crop"),
        ("k-reciprocal", "subject crop"),
        ("refinement", "subject crop"),
        ("late interaction", "refinement"),
        ("geometry", "refinement"),
        ("diversity", "geometry"),
    ]
    r_at_1 = {stage.name: stage.r_at_1.mean for stage in found.stages}
    for stage in found.stages[1:]:
        assert stage.gain and stage.over
        gained = r_at_1[stage.name] - r_at_1[stage.over]
        assert stage.gain.mean == pytest.approx(gained, abs=1e-9)
        assert stage.gain.low <= stage.gain.mean <= stage.gain.high
        assert stage.mean_ap_gain
    assert r_at_1["diversity"] == r_at_1["geometry"]  # it never moves the first
    profiles = {name: metrics.r_at_1.mean for name, metrics in found.profiles.items()}
    assert profiles == {
        "none": r_at_1["none"],
        "fast": r_at_1["refinement"],
        "precise": r_at_1["geometry"],
    }


def test_verdicts_are_held_against_the_truth(synthetic: tuple[Evaluation, list[Miss]]) -> None:
    verdicts = synthetic[0].verdicts
    assert verdicts
    levels = [Level.EXACT, *(edit.level for edit in EDITS)]
    told = {level: sum(row.values()) for level, row in verdicts.confusion.items()}
    assert told == {level: 2 * levels.count(level) for level in Level if level in levels}
    assert verdicts.confusion["exact"] == {"exact": 2}
    # of smooth blobs a strong JPEG looks edited
    assert set(verdicts.confusion["copy"]) <= {"copy", "edited"}
    assert verdicts.right["edited"] >= 0.8
    queries = sum(told.values())
    # eleven others each, less what two scenes, collages (of three) and screens were made of
    assert verdicts.reranked.pairs == 11 * queries - 2 * (1 + 3 + 1)
    assert verdicts.shown.pairs == 10 * queries - 2 * 2  # of a collage only eight are left
    assert verdicts.reranked.edited_or_closer >= verdicts.reranked.copy_or_closer
    # one pair of each edited query, and a wrong one of each query
    counted = sum(b.count for b in verdicts.reliability.bins)
    assert counted == (queries - 2) + queries
    assert verdicts.reliability.error < 0.3


def test_the_same_seed_asks_the_same_and_another_does_not(flat: Path, tmp_path: Path) -> None:
    with Progress(disable=True) as progress:
        held = build_gallery(load(flat), Embedder(FIXED_FILTERS), tmp_path, progress)

    def asked(seed: int) -> list[tuple[str, bytes]]:
        return [(query.name, query.make()[0]) for query in synthetic_queries(held, 24, seed)]

    assert asked(1) == asked(1) != asked(2)
    assert len({name.split(",")[0] for name, _ in asked(1)}) == 12  # all, before any comes again


def test_what_a_scene_is_made_of_is_told_and_is_another(flat: Path, tmp_path: Path) -> None:
    with Progress(disable=True) as progress:
        held = build_gallery(load(flat), Embedder(FIXED_FILTERS), tmp_path, progress)
    queries = synthetic_queries(held, 12 * (1 + len(EDITS)), 0)
    scenes = [query for query in queries if query.edit == "in a scene"]
    assert len(scenes) == 12
    for query in scenes:
        _, used = query.make()
        assert used and query.original not in used


def test_vectors_are_kept_and_a_broken_one_is_made_anew(flat: Path, tmp_path: Path) -> None:
    options = Options(FIXED_FILTERS, tmp_path, True, None, 1)
    silent(flat, options)
    kept = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(kept) == 12
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in kept}
    kept[0].write_bytes(before[kept[0]][1][:100])
    silent(flat, options)
    assert kept[0].read_bytes() == before[kept[0]][1]
    assert all(path.stat().st_mtime_ns == before[path][0] for path in kept[1:])


# --- against an earlier run ---


def lower(value: Estimate, by: float) -> Estimate:
    return structs.replace(value, mean=value.mean - by)


def test_a_fall_is_named_and_one_within_the_tolerance_is_none(
    labelled: tuple[Evaluation, list[Miss]],
) -> None:
    before, _ = labelled
    [found] = before.found
    fast = structs.replace(
        found.profiles["fast"], mean_ap=lower(found.profiles["fast"].mean_ap, 0.02)
    )
    fallen = structs.replace(found, profiles={**found.profiles, "fast": fast})
    now = structs.replace(before, found=[fallen])
    assert drops(before, now, 0.02) == []
    [told] = drops(before, now, 0.019)
    assert told.startswith("mAP of fast, by label: ")
    assert drops(now, before, 0.0) == []  # a rise is no fall


def test_an_earlier_run_of_something_else_is_refused(
    labelled: tuple[Evaluation, list[Miss]], classes: Path, tmp_path: Path
) -> None:
    options = Options(FIXED_FILTERS, tmp_path, queries=5)
    with pytest.raises(DatasetError, match="queries was 15, is 5"):
        silent(classes, options, labelled[0])
    with pytest.raises(DatasetError, match="digest was"):
        other = structs.replace(labelled[0].setup, digest="other")
        silent(classes, Options(FIXED_FILTERS, tmp_path), structs.replace(labelled[0], setup=other))
    assert not list(tmp_path.iterdir())  # before any work is done


# --- the command ---


def test_the_command_writes_both_files_and_closes_as_a_gate(tmp_path: Path) -> None:
    brands = products_by("brand", tmp_path / "brands")  # nothing to see of them: there are misses
    arguments = (brands, "--model", FIXED_FILTERS, "--out", tmp_path)
    first = likeness(*arguments)
    assert first.returncode == 0, first.stderr
    assert "by label" in first.stdout
    file = tmp_path / results.RESULTS
    evaluation = results.read(file)
    assert list(evaluation.latency) == PROFILES
    page = (tmp_path / reporting.PAGE).read_text()
    assert page.count("<svg") == page.count("</svg>") > 5
    assert not re.search(r"<script|<link|src=.http|url\(", page)
    pictures = page.count("data:image/jpeg;base64,")
    assert pictures and pictures % 3 == 0  # query, found first, right
    kept = tmp_path / "before.json"
    shutil.copy(file, kept)
    assert likeness(*arguments, "--baseline", kept).returncode == 0
    [found] = evaluation.found
    raised = structs.replace(
        found.profiles["none"], r_at_1=lower(found.profiles["none"].r_at_1, -0.1)
    )
    better = structs.replace(found, profiles={**found.profiles, "none": raised})
    results.write(structs.replace(evaluation, found=[better]), kept)
    fallen = likeness(*arguments, "--baseline", kept, "--tolerance", "0.05")
    assert fallen.returncode == 1
    assert "R@1 of none, by label" in fallen.stderr
    assert "mAP" not in fallen.stderr


@pytest.mark.parametrize(
    ("pictures", "complaint"),
    [(0, "contains no images"), (1, "at least two are needed"), (2, "--synthetic")],
)
def test_what_cannot_be_measured_is_told_in_one_line(
    pictures: int, complaint: str, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(pictures):
        (folder / f"{seed}.png").write_bytes(png(seed))
    done = likeness(folder, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert complaint in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_baseline_that_is_none_is_told_before_any_work(flat: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "baseline.json"
    wrong.write_bytes(msgspec.json.encode({"r_at_1": 0.9}))
    done = likeness(flat, "--synthetic", "--out", tmp_path / "out", "--baseline", wrong)
    assert done.returncode == 1
    assert "is not an evaluation.json" in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_names_that_html_would_take_for_its_own_are_harmless(
    synthetic: tuple[Evaluation, list[Miss]], flat: Path
) -> None:
    picture = flat / "0.jpg"
    miss = Miss("<b>&.jpg", picture.read_bytes(), picture, picture, 3)
    page = reporting.page(synthetic[0], [miss])
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;.jpg" in page

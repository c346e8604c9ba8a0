"""`likeness adapt`: what it learns, what it refuses, and the command as a pipeline runs it."""

from __future__ import annotations

import csv
import json
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from numpy.typing import NDArray
from rich.progress import Progress
from typer.testing import CliRunner

from console.adaptation import guards, learning, selection, training_set
from console.adaptation.learning import Plan
from console.adaptation.searching import Searches, first_right, search
from console.adaptation.training_set import TrainingSet
from console.app import app
from console.bundles.adapter import load_map
from console.evaluation import gallery
from console.evaluation.datasets import Item
from console.evaluation.metrics import rank
from likeness.embedding import Embedder, unit_rows
from likeness.errors import LikenessError
from likeness.features import ImageFeatures
from likeness.feedback import FeedbackEvent, FeedbackStore
from likeness.model import load_golden, load_spec
from likeness.proof.verdicts import load_calibration
from likeness.query_tokens import encode_query_token
from likeness.records import ImageInfo, ObjectRef, ObjectState, Point, State, Version
from likeness.settings import Limits
from tests import networks
from tests.indexes import address_of
from tests.labelled_pictures import write_products
from tests.pictures import png
from tests.service import BUNDLED, FIXED_FILTERS, ROOT

GROCERY = ROOT.parent / "shared" / "data" / "grocery" / "labels.csv"
Floats = NDArray[np.float64]


def training(
    vectors: Floats, product: NDArray[np.intp], catalogue: NDArray[np.bool_] | None = None
) -> TrainingSet:
    shown = np.zeros(len(vectors), bool) if catalogue is None else catalogue
    return TrainingSet(
        "drawn", unit_rows(vectors.astype(np.float32)), product, shown,
        np.array([""] * len(vectors)), (), {},
    )  # fmt: skip


def drawn(
    products: int, images: int, noise: Floats, seed: int = 0, own: float = 1.0
) -> tuple[Floats, NDArray[np.intp]]:
    """Products at random, and their images with noise of this strength in each direction."""
    rng = np.random.default_rng(seed)
    product = np.repeat(np.arange(products), images)
    centres = own * rng.normal(size=(products, len(noise)))
    return centres[product] + noise * rng.normal(size=(len(product), len(noise))), product


def selected(found: TrainingSet, guards: list[Searches] | None = None) -> selection.Selection:
    return selection.select(found, found.searches(0), guards or [], 0)


# --- learning ---

DIM = 32
NUISANCE = np.where(np.arange(DIM) < 8, 6.0, 0.5)


def test_directions_in_which_images_of_one_product_differ_are_learned_to_count_less() -> None:
    found = selected(training(*drawn(60, 4, NUISANCE)))
    assert found.unseen.gains and not found.unseen.loses
    assert found.unseen.r_at_1[1] > found.unseen.r_at_1[0] + 0.3
    assert found.mapped is not None
    lengths = np.linalg.norm(found.mapped.matrix, axis=1)
    assert lengths[:8].max() < lengths[8:].min()


def test_from_noise_that_is_the_same_in_all_directions_nothing_is_gained() -> None:
    found = selected(training(*drawn(60, 4, np.full(DIM, 1.2))))
    assert not found.unseen.gains


def test_what_is_learned_by_heart_is_no_gain() -> None:
    """A leak test: images at random, called products in pairs. A map that was fitted to a pair
    finds it, because it ignores the direction between the two; other pairs it finds by chance.
    """
    vectors = np.random.default_rng(0).normal(size=(80, 64))
    found = selected(training(vectors, np.repeat(np.arange(40), 2)))
    seen = next(each for each in found.changes if each.name == "products learned from")
    assert seen.gains and seen.r_at_1[1] > 0.5
    assert found.unseen.r_at_1[1] < 0.15 and not found.unseen.gains


def test_all_images_of_a_product_are_in_one_fold() -> None:
    product = np.random.default_rng(0).integers(-1, 40, 500)
    fold = selection.folds(product, 3)
    assert set(fold[product < 0]) == {-1}
    assert all(len(set(fold[product == each])) == 1 for each in range(40))
    counts = np.bincount([fold[product == each][0] for each in range(40)])
    assert counts.tolist() == [8] * selection.FOLDS


def test_photos_learn_from_their_catalogue_pictures() -> None:
    vectors, product = drawn(80, 4, np.full(DIM, 0.3))
    catalogue = np.arange(len(product)) % 4 == 0
    shift = np.random.default_rng(1).normal(size=(len(product), 4)) * 4 + 3
    vectors[~catalogue, :4] += shift[~catalogue]
    found = training(vectors, product, catalogue)
    assert found.forms == ("scatter", "pairs")
    searches = found.searches(0)
    assert len(searches.gallery) == catalogue.sum() and (searches.own == -1).all()
    chosen = selected(found)
    assert chosen.unseen.gains
    assert {plan.form for plan in chosen.scores} == {"scatter", "pairs"}
    photos = found.photo_searches(0)
    assert photos is not None and len(photos.gallery) == (~catalogue).sum()


@pytest.mark.parametrize("form", ["scatter", "pairs"])
def test_the_map_is_the_formula(form: learning.Form) -> None:
    vectors, product = drawn(12, 5, NUISANCE)
    rows = unit_rows(vectors.astype(np.float32))
    catalogue = np.arange(len(product)) % 5 == 0
    moments = learning.moments(rows, product, catalogue)
    mapped = learning.fit(learning.diagonalise(moments, form), Plan(form, 0.3))
    differences = [
        rows[row] - (rows[product == product[row]].mean(axis=0) if form == "scatter"
                     else rows[catalogue & (product == product[row])][0])
        for row in range(len(rows)) if form == "scatter" or not catalogue[row]
    ]  # fmt: skip
    scatter = np.array(differences, float).T @ np.array(differences, float) / len(differences)
    wanted = np.linalg.inv(scatter + 0.3 * np.trace(scatter) / DIM * np.eye(DIM))
    squared = mapped.matrix.astype(float) @ mapped.matrix
    scale = np.trace(wanted) / np.trace(squared)
    np.testing.assert_allclose(squared * scale, wanted, rtol=2e-3, atol=1e-3 * wanted.max())
    np.testing.assert_allclose(mapped.mean, rows.mean(axis=0), atol=1e-6)


def test_moments_of_parts_add_up() -> None:
    vectors, product = drawn(20, 3, NUISANCE)
    rows = vectors.astype(np.float32)
    shown = np.arange(len(product)) % 3 == 0
    whole = learning.moments(rows, product, shown)
    parts = [
        learning.moments(rows[product % 4 == n], product[product % 4 == n], shown[product % 4 == n])
        for n in range(4)
    ]
    for one, other in zip(whole, learning.added(parts), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_a_rank_keeps_the_directions_in_which_products_differ() -> None:
    vectors, product = drawn(40, 4, np.full(DIM, 0.3))
    vectors[:, 16:] *= 0.05
    moments = learning.moments(vectors.astype(np.float32), product, np.zeros(len(product), bool))
    mapped = learning.fit(learning.diagonalise(moments, "scatter"), Plan("scatter", 3.0, 16))
    assert mapped.matrix.shape == (DIM, 16)
    assert np.linalg.norm(mapped.matrix[16:]) < 0.3 * np.linalg.norm(mapped.matrix[:16])


def test_what_an_adapter_would_lose_elsewhere_refuses_it() -> None:
    """Elsewhere exactly the directions tell images apart that products are learned to ignore."""
    vectors, product = drawn(60, 4, NUISANCE)
    rng = np.random.default_rng(5)
    originals = np.hstack([rng.normal(size=(200, 8)), np.zeros((200, DIM - 8))])
    copies = originals + rng.normal(size=originals.shape) * np.where(np.arange(DIM) < 8, 0.15, 0.12)
    rows = np.arange(200)
    guard = Searches(
        "elsewhere", unit_rows(copies.astype(np.float32)),
        unit_rows(originals.astype(np.float32)), rows, rows, np.full(200, -1), rows,
    )  # fmt: skip
    free, guarded = (
        selected(training(vectors, product)),
        selected(training(vectors, product), [guard]),
    )
    assert free.plan is not None and free.plan.shrinkage < 10
    if guarded.plan is None:
        assert any(each.loses for each in guarded.changes)
    else:
        assert not next(c for c in guarded.changes if c.name == "elsewhere").r_at_1_gain.high < 0
        assert guarded.plan.shrinkage > free.plan.shrinkage


def test_searches_are_ranked_as_the_evaluation_does() -> None:
    rng = np.random.default_rng(0)
    queries, shown = (
        unit_rows(rng.normal(size=(n, 6)).astype(np.float32).round(1)) for n in (40, 90)
    )
    classes, wanted = rng.integers(0, 9, 90), rng.integers(0, 9, 40)
    own = np.where(rng.random(40) < 0.5, rng.integers(0, 90, 40), -1)
    searches = Searches("any", queries, shown, wanted, classes, own, wanted)
    scores = queries @ shown.T
    ignored = own[:, None] == np.arange(90)
    wished = rank(scores, wanted[:, None] == classes, ignored)
    found = search(searches, None)
    np.testing.assert_array_equal(found.at_1, wished.at_1)
    np.testing.assert_allclose(found.average_precision, wished.average_precision)
    np.testing.assert_array_equal(first_right(searches, None), wished.at_1)


def test_a_hundred_thousand_products_are_drawn_from_in_seconds() -> None:
    items = [Item(Path(f"{n}.jpg"), None, str(n // 2), None) for n in range(200_000)]
    start = time.perf_counter()
    rows = training_set._drawn(items, 5000, 0)
    assert time.perf_counter() - start < 20
    assert len(rows) == 5000
    assert len({items[row].instance for row in rows}) == 2500
    vectors, product = drawn(100_000, 2, np.full(4, 0.5))
    searches = training(vectors, product).searches(0)
    assert (len(searches.queries), len(searches.gallery)) == (1000, training_set.MAX_GALLERY)
    others = np.ones(len(searches.queries), bool)
    assert (search(searches.of(others), None).average_precision > 0).all()


# --- the command ---


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_products(tmp_path_factory.mktemp("products"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def run(*arguments: str | Path, status: int) -> str:
    """In this process, as a new one takes seconds to load; the output as one line."""
    done = CliRunner().invoke(app, ["adapt", *map(str, arguments)])
    assert done.exit_code == status, done.output
    said = done.output
    if isinstance(done.exception, LikenessError | RuntimeError | OSError):  # as main() prints it
        said += str(done.exception)
    return " ".join(said.replace("│", " ").split())


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few edited copies that none is lost beyond its interval: drawn products are no shop."""
    monkeypatch.setattr(guards, "_ORIGINALS", 3)


@pytest.mark.usefixtures("lenient")
def test_a_bundle_that_gains_is_written_and_served_as_any_other(
    products: Path, cache: Path, tmp_path: Path
) -> None:
    target = tmp_path / "models" / "mine"
    said = run(products, "--cache", cache, "--out", target, "--seed", "1", status=0)
    assert "gain on products left out" in said and "migrate start" in said
    base, spec = load_spec(BUNDLED), load_spec(target)
    assert spec.fingerprint != base.fingerprint
    assert spec.adapter is not None and spec.adapter.base == base.fingerprint
    assert (spec.name, spec.preprocessing, spec.local, spec.patches) == (
        "likeness-small-adapted", base.preprocessing, base.local, base.patches,
    )  # fmt: skip
    assert load_golden(target, spec).model == spec.fingerprint
    calibration = load_calibration(target, spec.fingerprint)
    assert calibration is not None and "adapted" in calibration.made_from
    card = (target / "MODEL_CARD.md").read_text()
    assert base.fingerprint in card and "products left out" in card and "scatter, λ" in card
    assert {path.name for path in target.parent.iterdir()} == {"mine"}

    one, other = Embedder(BUNDLED), Embedder(target)
    image, _ = one.decode(png(3, 300, 200), Limits())
    before, after = (each.extract([each.to_tensor(image)]) for each in (one, other))
    mapped = load_map(target, spec).apply(before.vectors)
    np.testing.assert_allclose(after.vectors, mapped, atol=1e-5)
    for name in ("local", "patches", "salience"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))

    assert "exists: choose another name" in run(
        products, "--cache", cache, "--out", target, status=1
    )
    assert "is the bundle that is adapted" in run(
        products, "--model", target, "--out", target, "--force", status=1
    )
    (target / "notes.txt").write_text("mine")
    assert "notes.txt in it would be lost" in run(
        products, "--cache", cache, "--out", target, "--force", status=1
    )


@pytest.mark.usefixtures("lenient")
def test_the_gate_writes_nothing_and_reports_as_json(
    products: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(
        app, ["adapt", str(products), "--cache", str(cache), "--check", "--json"]
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["outcome"], report["bundle"], report["products"]) == ("gain", None, 30)
    names = [each["name"] for each in report["changes"]]
    assert names == ["products left out", "products learned from", "copies", "general: copies"]
    assert report["changes"][0]["r_at_1_gain"]["low"] > 0
    assert list(tmp_path.iterdir()) == []


def test_without_a_gain_nothing_is_written_and_the_status_is_1(tmp_path: Path, cache: Path) -> None:
    """Products that are found already."""
    for product in range(12):
        (tmp_path / "data" / str(product)).mkdir(parents=True)
        for number, size in enumerate(((120, 90), (100, 75))):
            file = tmp_path / "data" / str(product) / f"{number}.png"
            file.write_bytes(png(product, *size))
    said = run(tmp_path / "data", "--cache", cache, "--out", tmp_path / "new", status=1)
    assert "no gain" in said and "is not above zero" in said
    assert not (tmp_path / "new").exists()


def test_a_csv_of_pairs_and_one_with_a_catalogue_say_the_same(
    products: Path, cache: Path, tmp_path: Path
) -> None:
    folders = sorted(products.iterdir())[:15]
    rows = [(f / "1.png", f / "0.png") for f in folders] + [
        (f / "2.png", f / "0.png") for f in folders
    ]
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("photo", "catalogue"), *rows])
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        labelled = [
            (f / f"{n}.png", f.name, ("catalogue", "photo", "photo")[n])
            for f in folders
            for n in (0, 1, 2)
        ]
        csv.writer(file).writerows([("path", "product", "split"), *labelled])
    embedder = Embedder(BUNDLED)
    with Progress(disable=True) as progress:
        pairs, labels = (
            training_set.from_images(tmp_path / name, None, embedder, cache, 5000, 0, progress)
            for name in ("pairs.csv", "labels.csv")
        )
        split = training_set.from_images(
            tmp_path / "labels.csv", "photo:catalogue", embedder, cache, 5000, 0, progress
        )
    for found in (pairs, labels, split):
        assert (found.products, len(found.vectors), found.catalogue.sum()) == (15, 45, 15)
        order = np.lexsort(found.vectors.T)
        np.testing.assert_array_equal(
            found.vectors[order], labels.vectors[np.lexsort(labels.vectors.T)]
        )


def test_pairs_that_share_a_picture_are_of_one_product() -> None:
    found = training_set._components([("a", "x"), ("b", "y"), ("c", "x"), ("b", "c"), ("d", "z")])
    assert found["a"] == found["b"] == found["y"] != found["d"] == found["z"]


def test_what_would_mislead_is_left_out_and_counted(cache: Path, tmp_path: Path) -> None:
    folder = write_products(tmp_path / "products", 14, 3)
    shutil.copy(folder / "product-00" / "0.png", folder / "product-01" / "same.png")
    shutil.copy(folder / "product-02" / "0.png", folder / "product-02" / "again.png")
    (folder / "product-03" / "bad.png").write_bytes(b"no picture")
    with Progress(disable=True) as progress:
        found = training_set.from_images(folder, None, Embedder(BUNDLED), cache, 5000, 0, progress)
    assert found.left_out == {
        "unreadable": 1, "the same file under two products": 2, "the same file again": 1,
    }  # fmt: skip
    assert len(found.vectors) == 14 * 3 - 1


def test_features_that_are_not_numbers_are_left_out(cache: Path, tmp_path: Path) -> None:
    folder = write_products(tmp_path / "products", 14, 3)
    embedder = Embedder(BUNDLED)
    with Progress(disable=True) as progress:
        items = [Item(path, path.parent.name, None, None) for path in sorted(folder.rglob("*.png"))]
        read = gallery.build_gallery(items, embedder, cache, progress)
    read.vectors[5] = np.nan
    found = training_set._of_gallery("drawn", read, set(), {})
    assert found.left_out == {"features are not numbers": 1}
    assert np.isfinite(found.vectors).all()


def write_csv(file: Path, *rows: tuple[str, ...]) -> Path:
    with file.open("w", newline="") as out:
        csv.writer(out).writerows(rows)
    return file


def one_class(folder: Path) -> Path:
    for n in range(20):
        (folder / f"{n}.png").write_bytes(png(n))
    return write_csv(folder / "d.csv", ("path", "label"), *((f"{n}.png", "mug") for n in range(20)))


def one_image_each(folder: Path) -> Path:
    for n in range(20):
        (folder / f"{n}.png").write_bytes(png(n))
    return write_csv(
        folder / "d.csv", ("path", "label"), *((f"{n}.png", str(n)) for n in range(20))
    )


def few_products(folder: Path) -> Path:
    return write_products(folder / "few", 4, 3)


def no_labels(folder: Path) -> Path:
    for n in range(20):
        (folder / f"{n}.png").write_bytes(png(n))
    return folder


def no_path(folder: Path) -> Path:
    return write_csv(folder / "d.csv", ("file", "label"), ("1.png", "a"))


def half_a_pair(folder: Path) -> Path:
    (folder / "1.png").write_bytes(png(1))
    return write_csv(folder / "d.csv", ("photo", "catalogue"), ("1.png", ""))


def missing_pair(folder: Path) -> Path:
    return write_csv(folder / "d.csv", ("photo", "catalogue"), ("1.png", "2.png"))


def pairs_of_another_encoding(folder: Path) -> Path:
    """From a line that the header's buffer does not hold."""
    rows = b"".join(b"%d.png,%d.png\n" % (n, n + 1) for n in range(2000))
    (folder / "d.csv").write_bytes(b"photo,catalogue\n" + rows + "ü.png,1.png\n".encode("latin-1"))
    return folder / "d.csv"


def all_contradict(folder: Path) -> Path:
    for product in range(12):
        (folder / str(product)).mkdir()
        for n in range(2):
            (folder / str(product) / f"{n}.png").write_bytes(png(n))
    return folder


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (one_class, "has 1 product: an adapter is learned from how images of one product differ"),
        (one_image_each, "no product has two images or more"),
        (few_products, "has 4 products with an image to search with and one to find; 10 are"),
        (no_labels, "does not say which product each image shows"),
        (no_path, "needs a column named path"),
        (half_a_pair, "line 2: photo or catalogue is empty"),
        (pairs_of_another_encoding, "cannot be read as a CSV in UTF-8"),
        (missing_pair, "names 2 missing files, the first 1.png"),
        (all_contradict, "has 0 product: an adapter is learned from how images of one product "),
        (lambda folder: folder / "none", "is neither a folder nor a .csv file"),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_from_is_a_clear_error(
    make: Callable[[Path], Path], complaint: str, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    source = make(tmp_path / "data")
    said = run(source, "--cache", cache, "--out", tmp_path / "new", status=1)
    assert complaint in said
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "name a folder or a CSV, or use --feedback"),
        (["x", "--feedback"], "name a folder or a CSV, or use --feedback"),
        (["--feedback", "--split", "a"], "--split goes with a CSV"),
        (["x", "--check", "--out", "y"], "--check writes no bundle"),
        (["x", "--check", "--force"], "--check writes no bundle"),
    ],
)
def test_a_wrong_call_has_status_2(arguments: list[str], complaint: str) -> None:
    assert complaint in run(*arguments, status=2)


def test_a_bundle_with_a_text_encoder_is_refused(products: Path, tmp_path: Path) -> None:
    files = {
        "image.onnx": networks.clip().SerializeToString(),
        "text.onnx": networks.text_encoder().SerializeToString(),
        "tokenizer.json": networks.tokenizer().to_str().encode(),
    }
    folder = tmp_path / "bundle"
    folder.mkdir()
    networks.write_bundle(folder, files, text={"length": 77})
    said = run(products, "--model", folder, "--out", tmp_path / "new", status=1)
    assert "has a text encoder" in said


def test_an_interrupted_run_goes_on_where_it_stopped(
    products: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[int] = []
    embed = gallery.features_of_file

    def counted(embedder: Embedder, data: bytes) -> Any:
        embedded.append(len(data))
        if len(embedded) == 50:
            raise KeyboardInterrupt
        return embed(embedder, data)

    monkeypatch.setattr(gallery, "features_of_file", counted)

    def read() -> TrainingSet:
        with Progress(disable=True) as progress:
            return training_set.from_images(
                products, None, Embedder(BUNDLED), tmp_path, 5000, 0, progress
            )

    with pytest.raises(KeyboardInterrupt):
        read()
    before = len(embedded)
    assert len(read().vectors) == 120
    again = len(embedded) - before
    assert again <= 120 - 45  # those that were embedded by then, by either thread, are not again
    read()
    assert len(embedded) == before + again


def test_features_that_are_no_numbers_do_not_blind_the_guards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_products(tmp_path / "general", 3, 2)
    embed = gallery.features_of_file

    def damaged(embedder: Embedder, data: bytes) -> Any:
        info, found = embed(embedder, data)
        if data == (folder / "product-01" / "0.png").read_bytes():
            found = structs.replace(found, vector=np.full_like(found.vector, np.nan))
        return info, found

    monkeypatch.setattr(gallery, "features_of_file", damaged)
    with Progress(disable=True) as progress:
        found = guards.read_general(folder, Embedder(BUNDLED), tmp_path / "cache", 0, progress)
    assert len(found.items) == len(found.vectors) == len(found.classes) == 5
    assert np.isfinite(found.vectors).all()
    assert [item.path.parent.name for item in found.items].count("product-01") == 1


def test_a_second_copy_of_an_original_is_no_wrong_answer(tmp_path: Path) -> None:
    """`--general` names images that are in the index, or that the map learns from."""
    folder, embedder = tmp_path / "general", Embedder(BUNDLED)
    folder.mkdir()
    for n in range(3):
        (folder / f"{n}.png").write_bytes(png(n, 120, 90))
    with Progress(disable=True) as progress:
        general = guards.read_general(folder, embedder, tmp_path / "cache", 0, progress)
        hits = [
            first_right(
                guards.copy_searches(
                    "copies", general.items, general.vectors, beside, embedder,
                    tmp_path / "cache", 0, progress,
                ),
                None,
            ).mean()
            for beside in (general.vectors[:0], general.vectors)
        ]  # fmt: skip
    assert hits[0] == hits[1] > 0.5


# --- feedback ---


def index_with_feedback(folder: Path, products: int, noise: float = 3.0) -> None:
    """Queries and results whose vectors differ in ten of the model's dimensions."""
    spec = load_spec(FIXED_FILTERS)
    rng = np.random.default_rng(0)
    strength = np.where(np.arange(spec.embedding.dim) < 10, noise, 0.15)
    index = address_of(folder).open()
    index.prepare(spec.fingerprint, spec.embedding.dim)
    points = []
    for product in range(products):
        centre = rng.normal(size=spec.embedding.dim) * 0.3
        shown, asked = (
            unit_rows((centre + strength * rng.normal(size=len(centre)))[None].astype(np.float32))[
                0
            ]
            for _ in "12"
        )
        ref = ObjectRef("photos", f"{product}.jpg")
        points.append(
            Point(
                ref, State.LIVE, Version(1), spec.fingerprint, 0.0,
                ObjectState("e", None, 1, "image/jpeg", 0.0),
                ImageInfo("jpeg", 10, 10, f"{product}"), vector=shown,
            )
        )  # fmt: skip
        token = encode_query_token([ImageFeatures(asked)], spec.fingerprint)
        event = FeedbackEvent(f"r{product}", ref.point_id, "relevant", 1.0, token)
        FeedbackStore(index).add(event)
    index.write(spec.fingerprint, points)
    index.close()


def feedback(folder: Path, cache: Path, *arguments: str, status: int) -> str:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in address_of(folder).env.items():
            patch.setenv(name, value)
        return run(
            "--feedback", "--model", FIXED_FILTERS, "--cache", cache, "--data", folder, *arguments,
            status=status,
        )  # fmt: skip


def test_feedback_that_teaches_passes_the_gate(tmp_path: Path, cache: Path) -> None:
    index_with_feedback(tmp_path / "index", 60)
    found = address_of(tmp_path / "index").open()
    learned = training_set.from_feedback(found, Embedder(FIXED_FILTERS))
    found.close()
    assert (learned.products, learned.catalogue.sum(), len(learned.vectors)) == (60, 60, 120)
    chosen = selected(learned)
    assert chosen.unseen.gains
    said = feedback(tmp_path / "index", cache, "--out", str(tmp_path / "new"), status=1)
    assert "verdicts are calibrated with 20 images or more of your own, there are 0" in said
    assert "--general" in said


def test_too_little_feedback_or_none_is_told(tmp_path: Path, cache: Path) -> None:
    index_with_feedback(tmp_path / "index", 4)
    said = feedback(tmp_path / "index", cache, "--check", status=1)
    assert "feedback has 4 products with an image to search with" in said
    index_with_feedback(tmp_path / "none", 0)
    said = feedback(tmp_path / "none", cache, "--check", status=1)
    assert "no feedback to learn from: POST /v1/feedback" in said and "no events yet" in said


def test_an_index_of_another_model_is_named(tmp_path: Path, cache: Path) -> None:
    index_with_feedback(tmp_path / "index", 12)
    said = feedback(tmp_path / "index", cache, "--check", "--model", str(BUNDLED), status=1)
    assert load_spec(FIXED_FILTERS).fingerprint in said and "with --model" in said


def test_feedback_without_a_query_is_counted(tmp_path: Path) -> None:
    index_with_feedback(tmp_path / "index", 12)
    index = address_of(tmp_path / "index").open()
    point = ObjectRef("photos", "0.jpg").point_id
    store = FeedbackStore(index)
    store.add(FeedbackEvent("a", point, "click", 1.0))
    store.add(FeedbackEvent("b", point, "click", 1.0, "made-up"))
    other = encode_query_token([ImageFeatures(np.eye(1, 4, dtype=np.float32)[0])], "0" * 16)
    store.add(FeedbackEvent("c", point, "click", 1.0, other))
    store.add(
        FeedbackEvent(
            "d",
            str(uuid.UUID(int=7)),
            "relevant",
            1.0,
            encode_query_token([ImageFeatures(np.eye(1, 4, dtype=np.float32)[0])], "0" * 16)[:-8],
        )
    )
    found = training_set.from_feedback(index, Embedder(FIXED_FILTERS))
    index.close()
    assert found.left_out == {
        "no query_id": 1,
        "query_id is invalid": 1,
        "query_id belongs to another model": 1,
        "without a right result that is still indexed": 1,
    }


# --- figures ---


@pytest.mark.skipif(not GROCERY.is_file(), reason="no photos of products: ../shared/data/grocery")
@pytest.mark.parametrize(("split", "gain"), [("test:train", 0.05), ("test:iconic", 0.03)])
def test_products_never_seen_are_found_more_often(split: str, gain: float, cache: Path) -> None:
    with Progress(disable=True) as progress:
        found = training_set.from_images(
            GROCERY, split, Embedder(BUNDLED), cache, 5000, 0, progress
        )
    unseen = selected(found).unseen
    assert unseen.r_at_1_gain.mean >= gain
    assert unseen.r_at_1_gain.low > 0

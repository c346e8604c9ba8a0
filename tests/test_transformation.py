"""`migrate fill` to an adapted model: stored points are mapped, and nothing newer is overwritten.

As in test_migration.py, the index function and the search function run with the real decoder,
network and engine over a bucket in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from console.bundles import adapted_bundle
from console.bundles.adapter import LinearMap
from console.migration import comparison, filling, lifecycle
from console.migration.transformation import Transformation, find_map
from likeness.embedding import Embedder
from likeness.indexing import Indexer, IndexerConfig
from likeness.model import load_spec
from likeness.ports import VectorIndex
from likeness.records import Hint, ObjectRef, Point, State
from tests.fake_bucket import FakeBucket
from tests.indexes import open_index
from tests.pictures import jpeg
from tests.service import BUNDLED, FIXED_FILTERS, SCHEMA
from tests.test_migration import LASTING, Users, World, models, put_lasting_images, small_image


def adapted(folder: Path, base: Path) -> Path:
    """With a map that changes vectors much."""
    rng, dim = np.random.default_rng(0), load_spec(base).embedding.dim
    matrix = np.eye(dim) + 0.5 * rng.normal(size=(dim, dim)) / dim**0.5
    mean = 0.3 * rng.normal(size=dim) / dim**0.5
    mapped = LinearMap(mean.astype(np.float32), matrix.astype(np.float32))
    adapted_bundle.write(folder, base, mapped, lambda made, spec: None)
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapted(tmp_path_factory.mktemp("models") / "adapted", FIXED_FILTERS)


@pytest.fixture
def world(tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[World]:
    world = World(tmp_path / "index", [FIXED_FILTERS, bundle])
    yield world
    world.index.close()


def begin(world: World, bundle: Path) -> tuple[lifecycle.Migration, Transformation]:
    spec = world.embedders[1].spec
    migration = lifecycle.begin(world.index, spec, str(bundle), keep_patches=False)
    mapped = find_map(migration, [FIXED_FILTERS, bundle])
    assert mapped is not None
    return migration, Transformation(world.index, migration, mapped)


def fill(
    world: World, migration: lifecycle.Migration, filler: Transformation
) -> filling.FillStatus:
    filling.measure(world.index, migration, lambda done: None, filler.fill)
    return filling.measure(world.index, migration, lambda done: None)


def stored(index: VectorIndex, model: str) -> dict[str, Point]:
    view = index.for_model(model)
    ids = [point.id for point in view.scroll(1000).points]
    return {point.ref.key: point for point in view.retrieve_with_vectors(ids).values()}


def refuse_reads(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*arguments: Any) -> Any:
        raise AssertionError("an image was read")

    monkeypatch.setattr(world.bucket, "read", read)


def test_points_are_mapped_with_all_that_they_hold_and_no_image_is_read(
    world: World, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_lasting_images(world)
    world.bucket.put("with-metadata.png", small_image(40), {"brand": "Norden", "price": "2.5"})
    world.bucket.put("bad.png", b"no picture")
    world.put(again=small_image(0), deleted=small_image(50))
    assert world.deliver("with-metadata.png", "bad.png") == []
    world.bucket.remove("deleted")
    assert world.deliver("deleted") == []
    old, new = models(world)
    before = stored(world.index, old)
    assert before["again"].partners and before["with-metadata.png"].meta
    migration, filler = begin(world, bundle)
    with monkeypatch.context() as patch:
        refuse_reads(world, patch)
        status = fill(world, migration, filler)
    assert (status.share, status.remaining, filler.left) == (1.0, 0, [])
    assert filler.done == len(before) - 1  # a deleted object needs no record
    after = stored(world.index, new)
    assert after.keys() == before.keys() - {"deleted"}
    for key, point in after.items():
        expected = structs.replace(before[key], model=new, vector=None)
        assert structs.replace(point, vector=None) == expected
    assert after["bad.png"].state is State.REJECTED and after["bad.png"].vector is None

    # embedded anew, by the index function, every vector is the same
    for key, point in after.items():
        if point.vector is None:
            continue
        image, _ = world.embedders[1].decode(
            world.bucket.read(point.ref, point.object.etag, 10**7).data, IndexerConfig().limits
        )
        [anew] = world.embedders[1].embed([world.embedders[1].to_tensor(image)])
        assert anew @ point.vector >= 0.9999, key
    # and to it the points are in sync
    with monkeypatch.context() as patch:
        refuse_reads(world, patch)
        assert world.deliver(*after) == []


def test_no_user_notices_a_migration_by_transformation(world: World, bundle: Path) -> None:
    put_lasting_images(world)
    old, new = models(world)
    users = Users(world)
    with users.working():
        users.wait_for_answers(20)
        migration, filler = begin(world, bundle)
        assert fill(world, migration, filler).share > 0.9
        sides = [comparison.LoadedModel(embedder, None) for embedder in world.embedders]
        found = comparison.compare(
            world.index, world.bucket, (sides[0], sides[1]), 8, 5, 0, lambda done: None
        )
        assert found.edited
        for model in (new, old, new):
            lifecycle.switch(world.index, model)
            users.wait_for_answers(30, model)
        lifecycle.finish(world.index, migration)
        users.wait_for_answers(20, new)
    assert users.errors == []
    live = {ref.key for ref in world.bucket.list("photos", "")}
    assert world.live_images(new).keys() == live


def upload(world: World) -> None:
    world.put(**{LASTING[3]: small_image(70)})


def delete(world: World) -> None:
    world.bucket.remove(LASTING[3])
    assert world.deliver(LASTING[3]) == []


@pytest.mark.parametrize("change", [upload, delete])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_changes_between_reading_and_writing_wins(
    change: Callable[[World], None],
    moment: str,
    world: World,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hint has no sequencer, so both collections count revisions of their own: the version
    that the new collection got from the upload is smaller than that of the point that was read.
    """
    put_lasting_images(world)
    for seed in (60, 61):
        world.put(**{LASTING[3]: small_image(seed)})
    migration, filler = begin(world, bundle)
    old, new = models(world)
    store, changed = type(world.index), list[int]()
    write = store.write

    def racing(index: Any, model: str, points: Any) -> None:
        mine = model == new and len(points) > 1 and not changed
        if mine:
            changed.append(1)
        if mine and moment == "before":
            change(world)
        write(index, model, points)
        if mine and moment == "after":
            change(world)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write", racing)
        fill(world, migration, filler)
    assert changed and filler.left == []
    assert world.live_images(new) == world.live_images(old)
    assert (LASTING[3] in world.live_images(new)) is (change is upload)


def test_an_upload_before_the_fill_is_not_overwritten(world: World, bundle: Path) -> None:
    put_lasting_images(world)
    _, filler = begin(world, bundle)
    upload(world)
    refs = [ObjectRef("photos", key) for key in LASTING]
    filler.fill(refs)
    old, new = models(world)
    assert world.live_images(new) == world.live_images(old)


def test_a_fill_that_was_interrupted_goes_on(
    world: World, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_lasting_images(world)
    migration, filler = begin(world, bundle)
    filler.fill([ObjectRef("photos", key) for key in LASTING[:5]])
    status = filling.measure(world.index, migration, lambda done: None)
    assert (status.equal, status.remaining) == (5, len(LASTING) - 5)
    _, second = begin(world, bundle)
    assert fill(world, migration, second).remaining == 0
    assert second.done == len(LASTING) - 5


def test_an_object_that_keeps_changing_is_left_for_a_hint(
    world: World, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_lasting_images(world)
    _, filler = begin(world, bundle)
    _, new = models(world)
    store, seeds = type(world.index), iter(range(80, 99))
    write = store.write

    def racing(index: Any, model: str, points: Any) -> None:
        write(index, model, points)
        if model == new and any(point.ref.key == LASTING[3] for point in points) and not busy:
            busy.append(1)
            world.put(**{LASTING[3]: small_image(next(seeds))})
            busy.clear()

    busy: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(store, "write", racing)
        filler.fill([ObjectRef("photos", key) for key in LASTING])
    assert [ref.key for ref in filler.left] == [LASTING[3]]
    assert filler.done == len(LASTING) - 1


def test_only_a_bundle_adapted_from_the_old_model_has_a_map(tmp_path: Path, bundle: Path) -> None:
    base, spec = load_spec(FIXED_FILTERS), load_spec(bundle)
    ours = lifecycle.Migration(base.fingerprint, spec.fingerprint, str(bundle))
    assert find_map(ours, [FIXED_FILTERS, bundle]) is not None
    assert find_map(ours, [FIXED_FILTERS, tmp_path / "none"]) is None
    of_other = structs.replace(ours, source=load_spec(BUNDLED).fingerprint)
    assert find_map(of_other, [bundle]) is None
    back = lifecycle.Migration(spec.fingerprint, base.fingerprint, "")
    assert find_map(back, [bundle, FIXED_FILTERS]) is None


def test_descriptors_and_patches_are_carried_over(tmp_path: Path) -> None:
    """The bundled model has both."""
    folder = adapted(tmp_path / "adapted", BUNDLED)
    bucket, embedder = FakeBucket("photos"), Embedder(BUNDLED)
    with closing(open_index(tmp_path / "index", SCHEMA)) as index:
        for seed in range(4):
            bucket.put(f"{seed}.jpg", jpeg(seed, 160, 120))
        config = IndexerConfig(SCHEMA, keep_patches=True)
        hints = [Hint(ObjectRef("photos", f"{seed}.jpg")) for seed in range(4)]
        Indexer(bucket, index, embedder, config).reconcile(hints)
        spec = load_spec(folder)
        migration = lifecycle.begin(index, spec, str(folder), keep_patches=True)
        mapped = find_map(migration, [folder])
        assert mapped is not None
        filler = Transformation(index, migration, mapped)
        filling.measure(index, migration, lambda done: None, filler.fill)
        assert (filler.done, filler.left) == (4, [])
        ids = [hint.ref.point_id for hint in hints]
        before, after = (
            index.for_model(model).retrieve_with_vectors(ids, patches=True)
            for model in (migration.source, migration.target)
        )
        other = Embedder(folder)
        for point_id, point in after.items():
            old = before[point_id]
            assert (point.local, point.colours) == (old.local, old.colours)
            assert point.patches is not None and old.patches is not None
            np.testing.assert_allclose(point.patches, old.patches, atol=2e-3)
            image, _ = other.decode(jpeg(int(point.ref.key[0]), 160, 120), config.limits)
            [anew] = other.embed([other.to_tensor(image)])
            assert point.vector is not None and anew @ point.vector >= 0.9999

"""A model migration while users upload, overwrite, delete and search: no answer is ever wrong,
incomplete or mixed from two models.

The index function's handler and the search function's app run with the real decoder, network and
engine over a bucket in memory. Both models have vectors of the same length, so that the index would
not notice a mixture.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from aws_lambda_powertools import Logger, Metrics
from msgspec import structs
from starlette.testclient import TestClient

from console.migration import comparison, filling, lifecycle
from functions.index.handler import Handler
from functions.search.api import create_app
from likeness.adapters.sqs import hint_message
from likeness.embedding import Embedder
from likeness.errors import ConfigurationError, IndexMissing, IndexUnavailable, NoDetail
from likeness.gallery import Gallery
from likeness.indexers import CachingReader, Indexers
from likeness.indexing import Indexer, IndexerConfig
from likeness.model import load_spec
from likeness.ports import VectorIndex
from likeness.proof.verdicts import load_calibration
from likeness.queries import ByImage, Query
from likeness.records import Hint, ObjectRef, Vector
from likeness.search import Searcher
from likeness.searchers import Searchers
from likeness.settings import Limits, Settings
from likeness.stopwatch import Stopwatch
from tests.fake_bucket import FakeBucket
from tests.indexes import open_index
from tests.pictures import png
from tests.service import BUNDLED, FIXED_FILTERS, SCHEMA

LASTING = [f"lasting-{seed}.png" for seed in range(12)]


@cache
def small_image(seed: int) -> bytes:
    return png(seed, 40, 40)  # small images are embedded faster


@pytest.fixture(scope="module")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with another normalisation: another fingerprint, other vectors."""
    folder = shutil.copytree(FIXED_FILTERS, tmp_path_factory.mktemp("model") / "other")
    manifest = json.loads((folder / "model.json").read_text())
    manifest |= {"name": "other", "normalise": {"scale": 0.02, "mean": [3, 1, 2], "std": [1, 2, 3]}}
    (folder / "model.json").write_text(json.dumps(manifest))
    (folder / "calibration.json").unlink(missing_ok=True)
    return folder


class World:
    """Both functions with both models, over one index and one bucket."""

    def __init__(self, folder: Path, bundles: list[Path]) -> None:
        self.index = open_index(folder, SCHEMA)
        self.bucket = FakeBucket("photos")
        self.embedders = [Embedder(bundle) for bundle in bundles]
        self.announced: list[str] = []
        store = CachingReader(self.bucket)
        calibration = load_calibration(BUNDLED, load_spec(BUNDLED).fingerprint)
        assert calibration is not None  # another model's: enough to enable duplicate detection
        indexers = [
            Indexer(
                store,
                self.index.for_model(embedder.fingerprint),
                embedder,
                IndexerConfig(
                    SCHEMA,
                    calibration=structs.replace(calibration, model=embedder.fingerprint),
                    parallel=1,
                ),
                self._announce,
            )
            for embedder in self.embedders
        ]
        silent_logger = Logger(service="test", logger_handler=logging.NullHandler())
        metrics = Metrics(namespace="Test", service="index")
        self.handler = Handler(
            Indexers(self.index, store, indexers), silent_logger, metrics, Stopwatch()
        )
        self.searchers = Searchers(
            self.index,
            [
                Searcher(
                    Gallery(self.index.for_model(e.fingerprint), lambda: self.bucket, SCHEMA), e
                )
                for e in self.embedders
            ],
            clock=lambda: 20 * time.monotonic(),  # the alias is checked every tenth of a second
        )
        settings = Settings("file:///unused", bundles[0], "photos", schema=SCHEMA)
        app = create_app(
            self.searchers, self.index, lambda: self.bucket, settings, lambda: silent_logger
        )
        self.http = TestClient(app, raise_server_exceptions=False)

    def _announce(self, points: Any) -> None:
        self.announced += [point.ref.key for point in points]

    def deliver(self, *keys: str) -> list[str]:
        """One batch of hints; returns the keys that the queue must keep."""
        records = [
            {"messageId": key, "body": hint_message(ObjectRef("photos", key))} for key in keys
        ]
        answer = self.handler({"Records": records}, None)
        return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]

    def put(self, **images: bytes) -> None:
        for key, data in images.items():
            self.bucket.put(key, data)
        assert self.deliver(*images) == []

    def search(self, data: bytes, **options: Any) -> Any:
        return self.http.post(
            "/v1/search", content=data, headers={"content-type": "image/png"}, params=options
        )

    def live_images(self, model: str) -> dict[str, str | None]:
        """The live images of a model's collection: each key with its SHA-256."""
        points = self.index.for_model(model).scroll(1000).points
        return {point.ref.key: point.sha256 for point in points if point.object}


@pytest.fixture
def world(
    tmp_path: Path, other_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[World]:
    world = World(tmp_path / "index", [FIXED_FILTERS, other_bundle])
    yield world
    world.index.close()


def begin(world: World) -> lifecycle.Migration:
    return lifecycle.begin(world.index, world.embedders[1].spec, "unused", keep_patches=False)


def fill(world: World, migration: lifecycle.Migration) -> filling.FillStatus:
    """Like `likeness migrate fill` and the queue."""
    filling.measure(
        world.index,
        migration,
        lambda done: None,
        lambda refs: world.deliver(*(ref.key for ref in refs)),
    )
    return filling.measure(world.index, migration, lambda done: None)


class Users:
    """Threads that use the service without pause; `errors` collects wrong answers."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._stop = threading.Event()
        # FakeBucket allows one writer at a time
        self._bucket = threading.Lock()
        self.errors: list[str] = []
        self.models: set[str] = set()
        self.answers = 0
        self._expected = {
            (embedder.fingerprint, query_seed): {
                key: float(vector_of(embedder, query_seed) @ vector_of(embedder, seed))
                for seed, key in enumerate(LASTING)
            }
            for embedder in world.embedders
            for query_seed in range(len(LASTING))
        }

    @contextmanager
    def working(self) -> Iterator[None]:
        actions: list[Callable[[Random], None]] = [self._search, self._search, self._change]
        threads = [
            threading.Thread(target=self._repeat, args=(action, Random(n)))
            for n, action in enumerate(actions)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def wait_for_answers(self, more: int, model: str | None = None) -> None:
        """Wait for so many more answers, and until one is from this model."""
        enough = self.answers + more
        self.models.clear()
        while (self.answers < enough or model not in {None, *self.models}) and not self.errors:
            time.sleep(0.01)

    def _repeat(self, action: Callable[[Random], None], chance: Random) -> None:
        while not self._stop.is_set():
            try:
                action(chance)
            except Exception as error:  # noqa: BLE001 - an error in a thread would go unnoticed
                self.errors.append(repr(error))
                return

    def _search(self, chance: Random) -> None:
        """The scores of unchanged images show which model was used."""
        query_seed = chance.randrange(len(LASTING))
        answer = self._ask(small_image(query_seed), limit=50)
        if answer is None:
            return
        expected = self._expected[answer["model"], query_seed]
        found = {r["key"]: r["score"] for r in answer["results"] if r["key"] in expected}
        if answer["results"][0]["key"] != LASTING[query_seed] or found.keys() != expected.keys():
            self.errors.append(f"lost: {expected.keys() - found.keys()}")
        wrong = [key for key in found if abs(found[key] - expected[key]) > 0.005]
        if wrong:
            self.errors.append(f"scores not of {answer['model']}: {wrong}")

    def _change(self, chance: Random) -> None:
        """Upload, overwrite, delete; the first search after each acknowledgement shows it."""
        key, first, second = f"{chance.random()}.png", *(chance.randrange(10**6) for _ in "12")
        for seed in (first, second):
            with self._bucket:
                self._world.bucket.put(key, small_image(seed))
            self._acknowledge(key)
            self._expect(key, seed, there=True)
        self._expect(key, first, there=False)
        with self._bucket:
            self._world.bucket.remove(key)
        self._acknowledge(key)
        self._expect(key, second, there=False)

    def _acknowledge(self, key: str) -> None:
        while self._world.deliver(key):  # the queue delivers it again
            pass

    def _expect(self, key: str, seed: int, there: bool) -> None:
        answer = self._ask(small_image(seed), limit=1)
        if answer is None:
            return
        [best] = answer["results"]
        if (best["key"] == key and best["score"] > 0.999) is not there:
            self.errors.append(f"{'lost' if there else 'still there'}: {key}, {best}")

    def _ask(self, data: bytes, **options: Any) -> Any:
        response = self._world.search(data, **options)
        self.answers += 1
        if response.status_code != 200:
            self.errors.append(f"{response.status_code}: {response.text}")
            return None
        answer = response.json()
        self.models.add(answer["model"])
        return answer


def vector_of(embedder: Embedder, seed: int) -> Vector:
    image, _ = embedder.decode(small_image(seed), Limits())
    [vector] = embedder.embed([embedder.to_tensor(image)])
    return np.asarray(vector)


def test_no_user_notices_a_whole_migration(world: World) -> None:
    put_lasting_images(world)
    old, new = models(world)
    users = Users(world)
    with users.working():
        users.wait_for_answers(20)
        migration = begin(world)
        users.wait_for_answers(20)
        assert fill(world, migration).share > 0.9
        sides = [comparison.LoadedModel(embedder, None) for embedder in world.embedders]
        comparison.compare(
            world.index, world.bucket, (sides[0], sides[1]), 8, 5, 0, lambda done: None
        )
        assert users.models == {old}
        for model in (new, old, new):
            lifecycle.switch(world.index, model)
            users.wait_for_answers(40, model)
        lifecycle.finish(world.index, migration)
        users.wait_for_answers(40, new)
    assert users.errors == []
    assert users.models == {new}
    assert world.index.models() == [new]
    live = {ref.key for ref in world.bucket.list("photos", "")}
    assert world.live_images(new).keys() == live


def put_lasting_images(world: World) -> None:
    world.put(**{key: small_image(seed) for seed, key in enumerate(LASTING)})


def models(world: World) -> tuple[str, str]:
    old, new = (embedder.fingerprint for embedder in world.embedders)
    return old, new


def test_nothing_is_written_for_a_model_before_its_migration_starts(world: World) -> None:
    put_lasting_images(world)
    assert world.index.models() == [models(world)[0]]
    begin(world)
    world.put(late=small_image(50))
    assert world.live_images(models(world)[1]).keys() == {"late"}


def test_both_models_share_one_read_of_an_object(world: World) -> None:
    put_lasting_images(world)
    begin(world)
    reads: list[str] = []
    read = world.bucket.read
    world.bucket.read = lambda ref, *rest: (reads.append(ref.key), read(ref, *rest))[1]  # type: ignore[method-assign,func-returns-value]
    world.put(a=small_image(51), b=small_image(52))
    assert sorted(reads) == ["a", "b"]
    world.put(a=small_image(53))  # the earlier bytes are not reused
    assert world.live_images(models(world)[1])["a"] == world.live_images(models(world)[0])["a"]


def test_an_object_is_acknowledged_once_both_models_have_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_lasting_images(world)
    begin(world)
    old, new = models(world)
    store = type(world.index)
    write = store.write

    def failing(index: VectorIndex, model: str, writes: Any) -> None:
        if model == new:
            raise IndexUnavailable("down")
        write(index, model, writes)

    world.bucket.put("a", small_image(51))
    with monkeypatch.context() as patch:
        patch.setattr(store, "write", failing)
        assert world.deliver("a") == ["a"]
    assert (world.live_images(old).keys() & {"a"}, world.live_images(new).keys()) == ({"a"}, set())
    assert world.deliver("a") == []
    assert world.live_images(new).keys() == {"a"}


def test_nothing_is_acknowledged_while_the_index_cannot_list_its_models(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_lasting_images(world)

    def failing(index: VectorIndex) -> list[str]:
        raise IndexUnavailable("down")

    world.bucket.put("a", small_image(51))
    monkeypatch.setattr(type(world.index), "models", failing)
    assert world.deliver("a", "b") == ["a", "b"]


def test_a_duplicate_is_announced_once_and_never_while_filling(world: World) -> None:
    put_lasting_images(world)
    world.put(again=small_image(0))
    assert world.announced == ["again"]
    migration = begin(world)
    fill(world, migration)
    assert world.announced == ["again"]
    world.put(third=small_image(0))
    assert world.announced == ["again", "third"]
    new = world.index.for_model(migration.target)
    [point] = new.retrieve_with_vectors([ObjectRef("photos", "third").point_id]).values()
    # its duplicates are found in the new model's collection
    assert {partner.key for partner in point.partners} == {"again", LASTING[0]}
    lifecycle.switch(world.index, migration.target)
    lifecycle.finish(world.index, migration)
    world.put(fourth=small_image(0))
    assert world.announced == ["again", "third", "fourth"]


def test_a_dropped_collection_does_not_come_back(world: World) -> None:
    put_lasting_images(world)
    migration = begin(world)
    world.put(a=small_image(51))  # both indexers have prepared their collections
    lifecycle.finish(world.index, migration)
    list_models = world.index.models

    def stale_models() -> list[str]:
        """The answer from just before the drop."""
        return [*list_models(), migration.target]

    world.index.models = stale_models  # type: ignore[method-assign]
    world.bucket.put("b", small_image(52))
    assert [world.deliver("b") for _ in range(2)] == [["b"], ["b"]]
    world.index.models = list_models  # type: ignore[method-assign]
    assert world.deliver("b") == []
    assert world.index.models() == [migration.source]


def test_a_search_whose_collection_is_dropped_is_answered_by_the_other(world: World) -> None:
    put_lasting_images(world)
    old, new = models(world)
    migration = begin(world)
    fill(world, migration)
    frozen = Searchers(world.index, list(world.searchers._searchers.values()), clock=lambda: 0.0)
    query = Query(ByImage(small_image(3)), limit=1)

    def model_of_answer(searcher: Searcher) -> str:
        [hit] = searcher.search(query).results
        assert hit.point.model == searcher.model
        return searcher.model

    assert frozen.run(model_of_answer) == old
    lifecycle.switch(world.index, new)
    assert frozen.run(model_of_answer) == old  # from its cached alias, and still correct
    lifecycle.finish(world.index, migration)
    assert frozen.run(model_of_answer) == new
    ref = ObjectRef("photos", LASTING[0])
    assert frozen.run(lambda searcher: searcher.gallery.status(ref)) is not None


def test_a_query_id_of_the_other_model_is_refused(world: World) -> None:
    put_lasting_images(world)
    migration = begin(world)
    fill(world, migration)
    answer = world.search(small_image(2)).json()
    lifecycle.switch(world.index, migration.target)
    time.sleep(0.2)  # the service reads the alias again
    refused = world.http.post("/v1/search", json={"query_id": answer["query_id"]})
    assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (
        409,
        "model-mismatch",
    )
    assert "send the image again" in refused.json()["detail"]
    again = world.search(small_image(2)).json()
    assert again["model"] == migration.target
    assert world.http.post("/v1/search", json={"query_id": again["query_id"]}).status_code == 200


def test_the_service_lists_the_models_it_can_search_with(world: World) -> None:
    put_lasting_images(world)
    ready = world.http.get("/v1/ready").json()
    assert (ready["model"], ready["models"]) == (models(world)[0], list(models(world)))


def test_an_alias_of_an_unknown_model_is_reported(world: World) -> None:
    put_lasting_images(world)
    world.index.prepare("e" * 16, 4)
    world.index.switch("e" * 16)
    refused = world.search(small_image(1))
    assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (
        503,
        "model-mismatch",
    )
    assert "likeness migrate status" in refused.json()["detail"]


def test_an_impossible_migration_is_refused(world: World, other_bundle: Path) -> None:
    with pytest.raises(IndexMissing):
        begin(world)
    with pytest.raises(ConfigurationError, match="no migration is under way"):
        lifecycle.require_current(world.index)
    put_lasting_images(world)
    with pytest.raises(ConfigurationError, match="already"):
        lifecycle.begin(world.index, world.embedders[0].spec, "unused", False)
    assert begin(world) == begin(world) == lifecycle.require_current(world.index)
    with pytest.raises(ConfigurationError, match="is under way"):
        lifecycle.begin(world.index, load_spec(BUNDLED), "unused", False)


def test_a_moved_bundle_is_recorded_at_its_new_folder(world: World) -> None:
    put_lasting_images(world)
    first = begin(world)
    world.index.switch(first.target)
    moved = lifecycle.begin(world.index, world.embedders[1].spec, "elsewhere", keep_patches=False)
    assert (
        moved
        == structs.replace(first, bundle="elsewhere")
        == lifecycle.require_current(world.index)
    )


def test_a_new_collection_keeps_patches_if_the_old_one_does(tmp_path: Path) -> None:
    with closing(open_index(tmp_path, SCHEMA)) as index:
        index.prepare("a" * 16, 8, patches=2)
        spec = load_spec(BUNDLED)
        assert spec.patches is not None
        lifecycle.begin(index, spec, "unused", keep_patches=False)
        assert index.for_model(spec.fingerprint).info().patches == spec.patches.dim


def test_missing_objects_are_counted_and_get_hints(world: World) -> None:
    put_lasting_images(world)
    world.put(overwritten=small_image(51), broken=b"no image", deleted=small_image(52))
    migration = begin(world)
    fill(world, migration)
    # processed for the old model only, as before the functions had both
    for key, data in {"overwritten": small_image(53), "late": small_image(54)}.items():
        world.bucket.put(key, data)
    world.bucket.remove("deleted")
    alone = Indexer(world.bucket, world.index, world.embedders[0], IndexerConfig(SCHEMA))
    hints = [Hint(ObjectRef("photos", key)) for key in ("overwritten", "late", "deleted")]
    assert not any(outcome.error for outcome in alone.reconcile(hints).values())

    missing: list[ObjectRef] = []
    found = filling.measure(world.index, migration, lambda done: None, missing.extend)
    assert {ref.key for ref in missing} == {"overwritten", "late", "deleted"}
    # the twelve lasting ones, broken, overwritten and late
    assert (found.objects, found.equal, found.rejected) == (15, 13, {})
    assert fill(world, migration).share == 1
    assert world.live_images(migration.target) == world.live_images(migration.source)


def test_objects_that_only_the_new_model_rejects_are_reported(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_lasting_images(world)
    migration = begin(world)

    def reject(image: Any) -> Any:
        raise NoDetail("nothing in it")

    with monkeypatch.context() as patch:
        patch.setattr(world.embedders[1], "preprocess", reject)
        world.deliver(LASTING[0])
    found = fill(world, migration)
    assert found.rejected == {LASTING[0]: "no-detail: nothing in it"}
    assert found.share == 1


def test_models_are_compared_by_neighbours_and_by_edited_copies(world: World) -> None:
    put_lasting_images(world)
    migration = begin(world)
    sides = tuple(comparison.LoadedModel(embedder, None) for embedder in world.embedders)

    def compare(steps: list[int]) -> comparison.Comparison:
        return comparison.compare(
            world.index, world.bucket, (sides[0], sides[1]), 50, 3, 1, steps.append
        )

    with pytest.raises(ConfigurationError, match="0 of 12 images"):
        compare([])
    fill(world, migration)
    steps: list[int] = []
    found = compare(steps)
    near = []
    for embedder in world.embedders:
        vectors = np.stack([vector_of(embedder, seed) for seed in range(len(LASTING))])
        scores = vectors @ vectors.T - 9 * np.eye(len(LASTING))
        near.append([set(row[-3:]) for row in scores.argsort(axis=1).tolist()])
    expected = {
        LASTING[n]: len(old & new) / 3 for n, (old, new) in enumerate(zip(*near, strict=True))
    }
    assert {change.key: change.overlap for change in found.overlaps} == pytest.approx(expected)
    assert found.overlaps[0].overlap == min(expected.values())
    assert found.overlap.mean == pytest.approx(np.mean(list(expected.values())))
    assert (found.edited, sum(steps)) == (12, 24)
    assert all(0.5 < side.low <= side.mean for side in found.found)
    assert found == compare([])
    world.bucket.put(LASTING[0], small_image(60))  # not indexed yet, so it has no ground truth
    assert compare([]).edited == 11

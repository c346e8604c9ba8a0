"""A change of the model while people upload, overwrite, delete and search: nothing wrong, lost or
mixed is ever answered.

The index function's handler and the search function's app, with the real decoder, network and
engine, over a bucket in memory. Both models have vectors of one length, so that the index would
compare them without a word.
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

from console.migration import lifecycle
from functions.index.handler import Handler
from functions.search.api import create_app
from likeness.adapters.qdrant_embedded import EmbeddedIndex
from likeness.adapters.qdrant_layout import Layout
from likeness.adapters.sqs import hint_message
from likeness.embedding import Embedder
from likeness.errors import ConfigurationError, IndexMissing, IndexUnavailable, NoDetail
from likeness.gallery import Gallery
from likeness.images import decode
from likeness.indexers import CachingReader, Indexers
from likeness.indexing import Indexer, IndexerConfig
from likeness.model import load_spec
from likeness.proof.verdicts import load_calibration
from likeness.queries import ByImage, Query
from likeness.records import Hint, ObjectRef, Vector
from likeness.search import Searcher
from likeness.searchers import Searchers
from likeness.settings import Limits, Settings
from likeness.stopwatch import Stopwatch
from tests.fake_bucket import FakeBucket
from tests.pictures import png
from tests.service import BUNDLED, FIXED_FILTERS, SCHEMA

LASTING = [f"lasting-{seed}.png" for seed in range(12)]


@cache
def drawn(seed: int) -> bytes:
    return png(seed, 40, 40)  # small ones are embedded soon


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network behind another normalisation: another fingerprint, other vectors."""
    folder = shutil.copytree(FIXED_FILTERS, tmp_path_factory.mktemp("model") / "other")
    manifest = json.loads((folder / "model.json").read_text())
    manifest |= {"name": "other", "normalise": {"scale": 0.02, "mean": [3, 1, 2], "std": [1, 2, 3]}}
    (folder / "model.json").write_text(json.dumps(manifest))
    (folder / "calibration.json").unlink(missing_ok=True)
    return folder


class World:
    """Both functions with both bundles, over one index and one bucket."""

    def __init__(self, folder: Path, bundles: list[Path]) -> None:
        self.index = EmbeddedIndex(folder, Layout("images", SCHEMA))
        self.bucket = FakeBucket("photos")
        self.embedders = [Embedder(bundle) for bundle in bundles]
        self.announced: list[str] = []
        store = CachingReader(self.bucket)
        calibration = load_calibration(BUNDLED, load_spec(BUNDLED).fingerprint)
        assert calibration is not None  # another model's: here it is enough that the gate runs
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
        quiet = Logger(service="test", logger_handler=logging.NullHandler())
        metrics = Metrics(namespace="Test", service="index")
        self.handler = Handler(Indexers(self.index, store, indexers), quiet, metrics, Stopwatch())
        self.searchers = Searchers(
            self.index,
            [
                Searcher(
                    Gallery(self.index.for_model(e.fingerprint), lambda: self.bucket, SCHEMA), e
                )
                for e in self.embedders
            ],
            clock=lambda: 20 * time.monotonic(),  # looks at the alias every tenth of a second
        )
        settings = Settings("file:///unused", bundles[0], "photos", schema=SCHEMA)
        app = create_app(self.searchers, self.index, lambda: self.bucket, settings, lambda: quiet)
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

    def put(self, **pictures: bytes) -> None:
        for key, data in pictures.items():
            self.bucket.put(key, data)
        assert self.deliver(*pictures) == []

    def search(self, data: bytes, **options: Any) -> Any:
        return self.http.post(
            "/v1/search", content=data, headers={"content-type": "image/png"}, params=options
        )

    def held(self, model: str) -> dict[str, str | None]:
        """What a model's collection has live: each key with its picture."""
        points = self.index.for_model(model).scroll(1000).points
        return {point.ref.key: point.sha256 for point in points if point.object}


@pytest.fixture
def world(tmp_path: Path, other: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[World]:
    world = World(tmp_path / "index", [FIXED_FILTERS, other])
    yield world
    world.index.close()


def begin(world: World) -> lifecycle.Migration:
    return lifecycle.begin(world.index, world.embedders[1].spec, "unused", keep_patches=False)


def fill(world: World, migration: lifecycle.Migration) -> lifecycle.Filling:
    """As `likeness migrate fill` and the queue do it."""
    lifecycle.filling(
        world.index,
        migration,
        lambda done: None,
        lambda refs: world.deliver(*(ref.key for ref in refs)),
    )
    return lifecycle.filling(world.index, migration, lambda done: None)


class Users:
    """Threads that use the service without a pause; `faults` has what they should not have seen."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._stop = threading.Event()
        # FakeBucket is no S3: one writes at a time
        self._bucket = threading.Lock()
        self.faults: list[str] = []
        self.models: set[str] = set()
        self.answers = 0
        self._expected = {
            (embedder.fingerprint, asked): {
                key: float(vector_of(embedder, asked) @ vector_of(embedder, seed))
                for seed, key in enumerate(LASTING)
            }
            for embedder in world.embedders
            for asked in range(len(LASTING))
        }

    @contextmanager
    def at_work(self) -> Iterator[None]:
        work: list[Callable[[Random], None]] = [self._search, self._search, self._change]
        threads = [
            threading.Thread(target=self._repeat, args=(each, Random(n)))
            for n, each in enumerate(work)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def until(self, more: int, model: str | None = None) -> None:
        """Wait for as many more answers, and until one is of this model."""
        enough = self.answers + more
        self.models.clear()
        while (self.answers < enough or model not in {None, *self.models}) and not self.faults:
            time.sleep(0.01)

    def _repeat(self, work: Callable[[Random], None], chance: Random) -> None:
        while not self._stop.is_set():
            try:
                work(chance)
            except Exception as error:  # noqa: BLE001 - a thread's own would vanish
                self.faults.append(repr(error))
                return

    def _search(self, chance: Random) -> None:
        """Scores of pictures that stay tell which model found them."""
        asked = chance.randrange(len(LASTING))
        answer = self._ask(drawn(asked), limit=50)
        if answer is None:
            return
        expected = self._expected[answer["model"], asked]
        found = {r["key"]: r["score"] for r in answer["results"] if r["key"] in expected}
        if answer["results"][0]["key"] != LASTING[asked] or found.keys() != expected.keys():
            self.faults.append(f"lost: {expected.keys() - found.keys()}")
        wrong = [key for key in found if abs(found[key] - expected[key]) > 0.005]
        if wrong:
            self.faults.append(f"of another model than {answer['model']}: {wrong}")

    def _change(self, chance: Random) -> None:
        """Upload, overwrite, delete; each is seen by the first search after it was acknowledged."""
        key, first, second = f"{chance.random()}.png", *(chance.randrange(10**6) for _ in "12")
        for seed in (first, second):
            with self._bucket:
                self._world.bucket.put(key, drawn(seed))
            self._acknowledge(key)
            self._expect(key, seed, there=True)
        self._expect(key, first, there=False)
        with self._bucket:
            self._world.bucket.remove(key)
        self._acknowledge(key)
        self._expect(key, second, there=False)

    def _acknowledge(self, key: str) -> None:
        while self._world.deliver(key):  # the queue brings it again
            pass

    def _expect(self, key: str, seed: int, there: bool) -> None:
        answer = self._ask(drawn(seed), limit=1)
        if answer is None:
            return
        [best] = answer["results"]
        if (best["key"] == key and best["score"] > 0.999) is not there:
            self.faults.append(f"{'lost' if there else 'still there'}: {key}, {best}")

    def _ask(self, data: bytes, **options: Any) -> Any:
        response = self._world.search(data, **options)
        self.answers += 1
        if response.status_code != 200:
            self.faults.append(f"{response.status_code}: {response.text}")
            return None
        answer = response.json()
        self.models.add(answer["model"])
        return answer


def vector_of(embedder: Embedder, seed: int) -> Vector:
    picture, _ = decode(drawn(seed), Limits(), embedder.decode_size)
    [vector] = embedder.embed([embedder.to_tensor(picture)])
    return np.asarray(vector)


def test_a_whole_migration_is_seen_by_nobody(world: World) -> None:
    lasting(world)
    old, new = models(world)
    users = Users(world)
    with users.at_work():
        users.until(20)
        migration = begin(world)
        users.until(20)
        assert fill(world, migration).share > 0.9
        sides = [lifecycle.Side(embedder, None) for embedder in world.embedders]
        lifecycle.compare(
            world.index, world.bucket, (sides[0], sides[1]), 8, 5, 0, lambda done: None
        )
        assert users.models == {old}
        for model in (new, old, new):
            lifecycle.switch(world.index, model)
            users.until(40, model)
        lifecycle.end(world.index, migration)
        users.until(40, new)
    assert users.faults == []
    assert users.models == {new}
    assert world.index.models() == [new]
    live = {ref.key for ref in world.bucket.list("photos", "")}
    assert world.held(new).keys() == live


def lasting(world: World) -> None:
    world.put(**{key: drawn(seed) for seed, key in enumerate(LASTING)})


def models(world: World) -> tuple[str, str]:
    old, new = (embedder.fingerprint for embedder in world.embedders)
    return old, new


def test_nothing_is_written_for_a_model_before_it_starts(world: World) -> None:
    lasting(world)
    assert world.index.models() == [models(world)[0]]
    begin(world)
    world.put(late=drawn(50))
    assert world.held(models(world)[1]).keys() == {"late"}


def test_both_models_are_made_of_one_read(world: World) -> None:
    lasting(world)
    begin(world)
    reads: list[str] = []
    read = world.bucket.read
    world.bucket.read = lambda ref, *rest: (reads.append(ref.key), read(ref, *rest))[1]  # type: ignore[method-assign,func-returns-value]
    world.put(a=drawn(51), b=drawn(52))
    assert sorted(reads) == ["a", "b"]
    world.put(a=drawn(53))  # not what was read before
    assert world.held(models(world)[1])["a"] == world.held(models(world)[0])["a"]


def test_an_object_is_acknowledged_once_both_models_have_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lasting(world)
    begin(world)
    old, new = models(world)
    write = EmbeddedIndex.write

    def failing(index: EmbeddedIndex, model: str, writes: Any) -> None:
        if model == new:
            raise IndexUnavailable("down")
        write(index, model, writes)

    world.bucket.put("a", drawn(51))
    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedIndex, "write", failing)
        assert world.deliver("a") == ["a"]
    assert (world.held(old).keys() & {"a"}, world.held(new).keys()) == ({"a"}, set())
    assert world.deliver("a") == []
    assert world.held(new).keys() == {"a"}


def test_while_the_index_does_not_say_what_it_holds_nothing_is_acknowledged(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lasting(world)

    def failing(index: EmbeddedIndex) -> list[str]:
        raise IndexUnavailable("down")

    world.bucket.put("a", drawn(51))
    monkeypatch.setattr(EmbeddedIndex, "models", failing)
    assert world.deliver("a", "b") == ["a", "b"]


def test_a_duplicate_is_announced_once_and_a_filled_one_never(world: World) -> None:
    lasting(world)
    world.put(again=drawn(0))
    assert world.announced == ["again"]
    migration = begin(world)
    fill(world, migration)
    assert world.announced == ["again"]
    world.put(third=drawn(0))
    assert world.announced == ["again", "third"]
    new = world.index.for_model(migration.target)
    [point] = new.retrieve_with_vectors([ObjectRef("photos", "third").point_id]).values()
    # found among what the new model's collection holds
    assert {partner.key for partner in point.partners} == {"again", LASTING[0]}
    lifecycle.switch(world.index, migration.target)
    lifecycle.end(world.index, migration)
    world.put(fourth=drawn(0))
    assert world.announced == ["again", "third", "fourth"]


def test_what_was_dropped_does_not_come_back(world: World) -> None:
    lasting(world)
    migration = begin(world)
    world.put(a=drawn(51))  # both indexers have prepared their collections
    lifecycle.end(world.index, migration)
    asked = world.index.models

    def late() -> list[str]:
        """The answer of a moment before the drop."""
        return [*asked(), migration.target]

    world.index.models = late  # type: ignore[method-assign]
    world.bucket.put("b", drawn(52))
    assert [world.deliver("b") for _ in range(2)] == [["b"], ["b"]]
    world.index.models = asked  # type: ignore[method-assign]
    assert world.deliver("b") == []
    assert world.index.models() == [migration.source]


def test_a_search_whose_collection_is_dropped_is_answered_by_the_other(world: World) -> None:
    lasting(world)
    old, new = models(world)
    migration = begin(world)
    fill(world, migration)
    frozen = Searchers(world.index, list(world.searchers._searchers.values()), clock=lambda: 0.0)
    asked = Query(ByImage(drawn(3)), limit=1)

    def model_of_answer(searcher: Searcher) -> str:
        [hit] = searcher.search(asked).results
        assert hit.point.model == searcher.model
        return searcher.model

    assert frozen.run(model_of_answer) == old
    lifecycle.switch(world.index, new)
    assert frozen.run(model_of_answer) == old  # seen long ago, and still right
    lifecycle.end(world.index, migration)
    assert frozen.run(model_of_answer) == new
    ref = ObjectRef("photos", LASTING[0])
    assert frozen.run(lambda searcher: searcher.gallery.status(ref)) is not None


def test_a_query_id_of_the_other_model_is_refused_clearly(world: World) -> None:
    lasting(world)
    migration = begin(world)
    fill(world, migration)
    answer = world.search(drawn(2)).json()
    lifecycle.switch(world.index, migration.target)
    time.sleep(0.2)  # the service looks at the alias again
    refused = world.http.post("/v1/search", json={"query_id": answer["query_id"]})
    assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (
        409,
        "model-mismatch",
    )
    assert "send the image again" in refused.json()["detail"]
    again = world.search(drawn(2)).json()
    assert again["model"] == migration.target
    assert world.http.post("/v1/search", json={"query_id": again["query_id"]}).status_code == 200


def test_the_service_says_what_it_can_search_with(world: World) -> None:
    lasting(world)
    ready = world.http.get("/v1/ready").json()
    assert (ready["model"], ready["models"]) == (models(world)[0], list(models(world)))


def test_an_alias_that_names_neither_model_is_a_clear_error(world: World) -> None:
    lasting(world)
    world.index.prepare("e" * 16, 4)
    world.index.switch("e" * 16)
    refused = world.search(drawn(1))
    assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (
        503,
        "model-mismatch",
    )
    assert "likeness migrate status" in refused.json()["detail"]


def test_a_migration_that_makes_no_sense_is_refused(world: World, other: Path) -> None:
    with pytest.raises(IndexMissing):
        begin(world)
    with pytest.raises(ConfigurationError, match="no migration is under way"):
        lifecycle.needed(world.index)
    lasting(world)
    with pytest.raises(ConfigurationError, match="searched with already"):
        lifecycle.begin(world.index, world.embedders[0].spec, "unused", False)
    assert begin(world) == begin(world) == lifecycle.needed(world.index)
    with pytest.raises(ConfigurationError, match="is under way"):
        lifecycle.begin(world.index, load_spec(BUNDLED), "unused", False)


def test_a_bundle_that_was_moved_is_known_by_its_new_place(world: World) -> None:
    lasting(world)
    first = begin(world)
    world.index.switch(first.target)
    moved = lifecycle.begin(world.index, world.embedders[1].spec, "elsewhere", keep_patches=False)
    assert moved == structs.replace(first, bundle="elsewhere") == lifecycle.needed(world.index)


def test_a_new_collection_keeps_patches_where_the_old_one_does(tmp_path: Path) -> None:
    with closing(EmbeddedIndex(tmp_path, Layout("images", SCHEMA))) as index:
        index.prepare("a" * 16, 8, patches=2)
        spec = load_spec(BUNDLED)
        assert spec.patches is not None
        lifecycle.begin(index, spec, "unused", keep_patches=False)
        assert index.for_model(spec.fingerprint).info().patches == spec.patches.dim


def test_what_is_missing_is_counted_and_hinted_at(world: World) -> None:
    lasting(world)
    world.put(overwritten=drawn(51), broken=b"no picture", deleted=drawn(52))
    migration = begin(world)
    fill(world, migration)
    # events that only reached the old model's index, as before the functions had both
    for key, data in {"overwritten": drawn(53), "late": drawn(54)}.items():
        world.bucket.put(key, data)
    world.bucket.remove("deleted")
    alone = Indexer(world.bucket, world.index, world.embedders[0], IndexerConfig(SCHEMA))
    hints = [Hint(ObjectRef("photos", key)) for key in ("overwritten", "late", "deleted")]
    assert not any(outcome.error for outcome in alone.reconcile(hints).values())

    missing: list[ObjectRef] = []
    found = lifecycle.filling(world.index, migration, lambda done: None, missing.extend)
    assert {ref.key for ref in missing} == {"overwritten", "late", "deleted"}
    # the twelve, broken, overwritten and late
    assert (found.objects, found.agreed, found.refused) == (15, 13, {})
    assert fill(world, migration).share == 1
    assert world.held(migration.target) == world.held(migration.source)


def test_what_only_the_new_model_rejects_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lasting(world)
    migration = begin(world)

    def blind(picture: Any) -> Any:
        raise NoDetail("nothing in it")

    with monkeypatch.context() as patch:
        patch.setattr(world.embedders[1], "preprocess", blind)
        world.deliver(LASTING[0])
    found = fill(world, migration)
    assert found.refused == {LASTING[0]: "no-detail: nothing in it"}
    assert found.share == 1


def test_models_are_compared_by_neighbours_and_by_edited_copies(world: World) -> None:
    lasting(world)
    migration = begin(world)
    sides = tuple(lifecycle.Side(embedder, None) for embedder in world.embedders)

    def compare(steps: list[int]) -> lifecycle.Comparison:
        return lifecycle.compare(
            world.index, world.bucket, (sides[0], sides[1]), 50, 3, 1, steps.append
        )

    with pytest.raises(ConfigurationError, match="0 of 12 pictures"):
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
    assert {change.key: change.overlap for change in found.changes} == pytest.approx(expected)
    assert found.changes[0].overlap == min(expected.values())
    assert found.overlap.mean == pytest.approx(np.mean(list(expected.values())))
    assert (found.edited, sum(steps)) == (12, 24)
    assert all(0.5 < side.low <= side.mean for side in found.found)
    assert found == compare([])
    world.bucket.put(LASTING[0], drawn(60))  # and not indexed yet: it is no answer's truth
    assert compare([]).edited == 11

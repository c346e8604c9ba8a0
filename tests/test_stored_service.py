"""What a service stored before bundles named their preprocessing still works, and can migrate.

tests/stored/make.py wrote it, with the code of that time: index, bundle, objects of the bucket,
messages in the queue, query_ids of answers.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from console.migration import lifecycle
from likeness.errors import ImageError, InvalidRequest, ModelMismatch
from likeness.feature_extraction import extract_features
from likeness.model import NEWEST_PREPROCESSING, load_spec
from likeness.query_tokens import decode_query_token
from likeness.records import State
from likeness.settings import Limits
from tests.test_migration import LASTING, Users, World, begin, fill, models, small_image

ARCHIVE = Path(__file__).parent / "stored" / "service.tar.xz"
MODEL = "ad412c8ec059d2e5"
REJECTED = {"white-on-clear.png": "no-detail", "fade-in.gif": "no-detail"}


class StoredService(World):
    """The stored service in a folder, with its own bundle and one of the newest preprocessing."""

    def __init__(self, folder: Path) -> None:
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(folder, filter="data")
        contents = json.loads((folder / "contents.json").read_text())
        self.messages: list[str] = contents["messages"]
        self.query_ids: list[str] = contents["query_ids"]
        self.query_id_of_likeness_small: str = contents["query_id_of_likeness_small"]
        super().__init__(folder / "index", [folder / "bundle", with_newest_preprocessing(folder)])
        for key in contents["order"]:  # the bucket counts: dates and versions are as they were
            self.bucket.put(key, (folder / "objects" / key).read_bytes())
        self.stored = [key for key in contents["order"] if not key.startswith("waiting")]

    def point(self, key: str, model: str = MODEL) -> Any:
        ref = self.bucket.ref(key)
        return self.index.for_model(model).retrieve_with_vectors([ref.point_id])[ref.point_id]

    def receive_messages(self) -> list[str]:
        records = [{"messageId": str(n), "body": body} for n, body in enumerate(self.messages)]
        answer = self.handler({"Records": records}, None)
        return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


def with_newest_preprocessing(folder: Path) -> Path:
    bundle = shutil.copytree(folder / "bundle", folder / "next")
    manifest = json.loads((bundle / "model.json").read_text())
    manifest["preprocessing"] = NEWEST_PREPROCESSING
    (bundle / "model.json").write_text(json.dumps(manifest))
    return bundle


@pytest.fixture
def service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[StoredService]:
    service = StoredService(tmp_path)
    yield service
    service.index.close()


def test_it_is_small() -> None:
    assert ARCHIVE.stat().st_size < 300_000


def test_its_bundle_is_of_version_1_and_has_the_same_fingerprint(service: StoredService) -> None:
    assert [e.spec.preprocessing for e in service.embedders] == [1, NEWEST_PREPROCESSING]
    assert models(service)[0] == MODEL
    assert models(service)[1] != MODEL


def test_nothing_in_it_is_indexed_again(service: StoredService) -> None:
    """A hint for each object finds index and bucket in sync: no digest has changed."""
    before = {key: service.point(key) for key in service.stored}
    assert service.deliver(*service.stored) == []
    for key, point in before.items():
        after = service.point(key)
        assert (after.version, after.indexed_at_s) == (point.version, point.indexed_at_s)


def test_version_1_still_makes_the_vectors_that_are_stored(service: StoredService) -> None:
    embedder = service.embedders[0]
    for key in service.stored:
        point, data = (
            service.point(key),
            service.bucket.read(
                service.bucket.ref(key), service.point(key).object.etag, 10**6
            ).data,
        )
        if key in REJECTED:
            assert (point.state, point.reason) == (State.REJECTED, REJECTED[key])
            with pytest.raises(ImageError) as refused:
                extract_features(embedder, embedder.decode(data, Limits())[0])
            assert (refused.value.slug, str(refused.value)) == (point.reason, point.detail)
            continue
        image, info = embedder.decode(data, Limits())
        features = extract_features(embedder, image)
        assert info == point.image
        assert features.vector @ point.vector >= 0.9999, key
        assert features.colours is not None
        colours = (np.frombuffer(each, np.uint8) for each in (features.colours, point.colours))
        assert np.abs(np.subtract(*(c.astype(int) for c in colours))).max() <= 1, key


def test_its_waiting_messages_are_taken(service: StoredService) -> None:
    assert service.receive_messages() == []
    assert service.point("waiting-200.png").state is State.LIVE
    assert service.point("waiting-201.png").state is State.LIVE


def test_its_query_ids_search_again(service: StoredService) -> None:
    for seed, query_id in enumerate(service.query_ids):
        answer = service.http.post("/v1/search", json={"query_id": query_id, "limit": 1})
        [best] = answer.json()["results"]
        assert best["key"] == LASTING[seed]
        assert best["score"] == pytest.approx(1, abs=1e-3)


def test_a_query_id_of_the_model_with_all_features_is_read(
    service: StoredService, tmp_path: Path
) -> None:
    spec = load_spec(tmp_path / "likeness-small")
    [whole, *_] = decode_query_token(service.query_id_of_likeness_small, spec)
    assert whole.packed and whole.colours and whole.sha256
    with pytest.raises(ModelMismatch):
        decode_query_token(service.query_id_of_likeness_small, service.embedders[0].spec)
    with pytest.raises(InvalidRequest):
        decode_query_token(service.query_id_of_likeness_small[:-40], spec)


def test_it_migrates_to_the_newest_preprocessing_while_it_is_used(service: StoredService) -> None:
    """Uploads, deletions and searches go on from before the start until after the end."""
    old, new = models(service)
    users = Users(service)
    with users.working():
        users.wait_for_answers(20)
        migration = begin(service)
        assert service.receive_messages() == []
        users.wait_for_answers(20)
        assert fill(service, migration).share > 0.9
        assert users.models == {old}
        for model in (new, old, new):
            lifecycle.switch(service.index, model)
            users.wait_for_answers(40, model)
        lifecycle.finish(service.index, migration)
        users.wait_for_answers(40, new)
    assert users.errors == []
    assert users.models == {new}
    assert service.index.models() == [new]
    live = {ref.key for ref in service.bucket.list("photos", "")}
    assert service.live_images(new).keys() == live


def test_both_models_see_an_object_in_their_own_way_during_the_migration(
    service: StoredService,
) -> None:
    migration = begin(service)
    status = fill(service, migration)
    assert (status.share, status.rejected) == (1, {})
    turned = (service.point("turned-by-xmp.png", model) for model in models(service))
    assert not np.allclose(*(point.vector for point in turned), atol=0.01)
    answer = service.search(small_image(3), limit=1).json()
    assert (answer["model"], answer["results"][0]["key"]) == (MODEL, LASTING[3])

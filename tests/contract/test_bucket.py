"""What the indexer relies on in a bucket: the same of S3 and of the bucket in memory."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import pytest

from likeness.adapters.s3 import S3Store
from likeness.errors import ImageTooLarge, ObjectChanged
from likeness.ports import ObjectStore
from likeness.records import ObjectRef
from likeness.sync import sync_key
from tests import lambda_runtime
from tests.fake_bucket import FakeBucket


class S3Bucket:
    """A versioned bucket of a real S3 API, with FakeBucket's verbs for what its owner does."""

    def __init__(self, url: str) -> None:
        self._client = lambda_runtime.client("s3", url)
        self.name = f"bucket-{uuid.uuid4()}"
        self._client.create_bucket(Bucket=self.name)
        self._client.put_bucket_versioning(
            Bucket=self.name, VersioningConfiguration={"Status": "Enabled"}
        )
        self.store: ObjectStore = S3Store(self._client)

    def put(self, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> None:
        self._client.put_object(Bucket=self.name, Key=key, Body=data, Metadata=metadata or {})

    def remove(self, key: str) -> None:
        self._client.delete_object(Bucket=self.name, Key=key)

    def undelete(self, key: str) -> None:
        listed = self._client.list_object_versions(Bucket=self.name, Prefix=key)
        [marker] = [m for m in listed["DeleteMarkers"] if m["IsLatest"]]
        self._client.delete_object(Bucket=self.name, Key=key, VersionId=marker["VersionId"])

    def ref(self, key: str) -> ObjectRef:
        return ObjectRef(self.name, key)


@pytest.fixture(params=["memory", "s3"])
def bucket(request: pytest.FixtureRequest) -> Any:
    if request.param == "s3":
        return S3Bucket(request.getfixturevalue("aws"))
    memory = FakeBucket()
    memory.store = memory  # type: ignore[attr-defined]
    return memory


def test_an_absent_object_has_no_state_and_cannot_be_read(bucket: Any) -> None:
    assert bucket.store.head(bucket.ref("a")) is None
    with pytest.raises(ObjectChanged):
        bucket.store.read(bucket.ref("a"), "0" * 32, 10)


def test_an_object_has_its_state_and_its_bytes(bucket: Any) -> None:
    bucket.put("a b+%2B.png", b"picture", {"brand": "acme"})
    state = bucket.store.head(bucket.ref("a b+%2B.png"))
    assert (state.size, dict(state.metadata)) == (7, {"brand": "acme"})
    assert state.version_id
    assert bucket.store.read(bucket.ref("a b+%2B.png"), state.etag, 7).data == b"picture"


def test_the_same_bytes_uploaded_again_are_another_version(bucket: Any) -> None:
    bucket.put("a", b"one")
    first = bucket.store.head(bucket.ref("a"))
    bucket.put("a", b"one")
    second = bucket.store.head(bucket.ref("a"))
    assert first.etag == second.etag
    assert first.version_id != second.version_id


def test_an_overwritten_object_cannot_be_read_by_its_old_etag(bucket: Any) -> None:
    bucket.put("a", b"one")
    old = bucket.store.head(bucket.ref("a"))
    bucket.put("a", b"two")
    with pytest.raises(ObjectChanged):
        bucket.store.read(bucket.ref("a"), old.etag, 10)


def test_a_deleted_object_is_absent_until_it_is_undeleted(bucket: Any) -> None:
    bucket.put("a", b"one")
    state = bucket.store.head(bucket.ref("a"))
    bucket.remove("a")
    assert bucket.store.head(bucket.ref("a")) is None
    with pytest.raises(ObjectChanged):
        bucket.store.read(bucket.ref("a"), state.etag, 10)
    bucket.undelete("a")
    assert bucket.store.head(bucket.ref("a")) == state


def test_more_bytes_than_allowed_are_refused(bucket: Any) -> None:
    bucket.put("a", b"12345678")
    state = bucket.store.head(bucket.ref("a"))
    with pytest.raises(ImageTooLarge):
        bucket.store.read(bucket.ref("a"), state.etag, 7)


def test_objects_are_listed_in_key_order_from_a_cursor(bucket: Any) -> None:
    for key in ("p/c", "p/a", "q/z", "p/b"):
        bucket.put(key, b"x")
    bucket.remove("p/b")
    listed = bucket.store.list(bucket.name, "p/")
    assert [ref.key for ref in listed] == ["p/a", "p/c"]
    after = bucket.store.list(bucket.name, "p/", start_after="p/a")
    assert [ref.key for ref in after] == ["p/c"]


def test_a_listing_agrees_with_the_state_of_each_object(bucket: Any) -> None:
    bucket.put("a b+%2B.png", b"one")
    bucket.put("c", b"three")
    bucket.put("c", b"longer")
    [first, second] = bucket.store.entries(bucket.name, "")
    for entry in (first, second):
        state = bucket.store.head(entry.ref)
        assert (entry.etag, entry.size) == (state.etag, state.size)
        assert sync_key("m", "s", entry) == sync_key("m", "s", state)
    assert [entry.ref.key for entry in bucket.store.entries(bucket.name, "", "a b")] == [
        "a b+%2B.png",
        "c",
    ]

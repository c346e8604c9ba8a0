"""S3Store and SqsQueue against a local S3 and SQS that are spoken to over their real APIs."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import boto3
import pytest
import urllib3

from console.indexing import uploads
from console.local import runner
from functions.index.events import parse_message
from likeness.adapters.s3 import S3Store
from likeness.adapters.sqs import SqsQueue
from likeness.errors import (
    ConfigurationError,
    ImageTooLarge,
    ObjectChanged,
    StoreUnavailable,
)
from likeness.filters import Schema
from likeness.records import Hint, ObjectRef
from tests.fault_server import closed_port

DATA = b"\x89PNG not really"
KEYS = [
    "a.jpg",
    "a b.jpg",
    "a+b.jpg",
    "a%2Bb.jpg",
    "a%20b.jpg",
    "shoes/Grün 😀.jpg",
    "a/../b.jpg",
    "../a.jpg",
    "./a.jpg",
    "a//b.jpg",
    "/a.jpg",
    "folder/",
    "?prefix=a&b=c#d",
    "<\"quoted\" & 'odd'>",
    "a\tb",
    "u\u0308 and \u00fc",
    "x" * 1000,
    "ü" * 512,
]
NAMES = [key if len(key) < 40 else f"{key[0]}…" for key in KEYS]


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A local AWS, and an environment in which boto3 finds it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boto3, "DEFAULT_SESSION", None)  # it would remember other credentials
        patch.setattr(os, "environ", os.environ.copy())
        with runner.ministack(tmp_path_factory.mktemp("aws")) as url:
            runner.use_aws(url)
            yield url


@pytest.fixture(scope="module")
def s3(aws: str) -> Iterator[Any]:
    client = boto3.client("s3")
    yield client
    client.close()


@pytest.fixture(scope="module")
def store(aws: str) -> Iterator[S3Store]:
    opened = S3Store()
    yield opened
    opened._client.close()


@pytest.fixture
def bucket(s3: Any) -> str:
    name = f"photos-{uuid.uuid4().hex[:8]}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def versioned(s3: Any, bucket: str) -> str:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return bucket


def test_unchanged_objects_are_not_uploaded_again(store: S3Store, versioned: str) -> None:
    """S3 returns neither the name nor the value as it was sent."""
    ref = ObjectRef(versioned, "a.jpg")
    sent = []
    for metadata in ({"Brand": "Grün 😀"}, {"Brand": "Grün 😀"}, {"Brand": "Blau"}, {}, {}):
        uploads.upload(store, ref, DATA, metadata)
        state = store.head(ref)
        assert state
        sent.append(state.version_id)
    assert [sent.index(version) for version in sent] == [0, 0, 2, 3, 3]


@pytest.fixture(scope="module")
def http() -> Iterator[urllib3.PoolManager]:
    with urllib3.PoolManager(retries=False, timeout=10) as pool:
        yield pool


def put(store: S3Store, bucket: str, key: str = "a.png", data: bytes = DATA) -> ObjectRef:
    ref = ObjectRef(bucket, key)
    store.put(ref, data, "image/png", {})
    return ref


def etag_of(store: S3Store, ref: ObjectRef) -> str:
    state = store.head(ref)
    assert state is not None
    return state.etag


# One object


@pytest.mark.parametrize("key", KEYS, ids=NAMES)
def test_any_key_is_written_described_read_listed_and_deleted(
    store: S3Store, bucket: str, key: str
) -> None:
    ref, before_s = ObjectRef(bucket, key), time.time()
    store.put(ref, DATA, "image/png", {"brand": "acme"})
    state = store.head(ref)
    assert state is not None
    assert (state.size, state.content_type, state.version_id) == (len(DATA), "image/png", None)
    assert state.metadata == {"brand": "acme"}
    assert abs(state.last_modified_s - before_s) < 60
    assert '"' not in state.etag
    assert store.read(ref, state.etag, 100).data == DATA
    assert list(store.list(bucket, "")) == [ref]
    store.delete(ref)
    assert store.head(ref) is None
    assert list(store.list(bucket, "")) == []


def test_keys_that_decode_to_each_other_are_different_objects(store: S3Store, bucket: str) -> None:
    keys = ["a+b", "a b", "a%2Bb", "a%20b", "a%252Bb"]
    for key in keys:
        put(store, bucket, key, key.encode())
    for key in keys:
        ref = ObjectRef(bucket, key)
        assert store.read(ref, etag_of(store, ref), 100).data == key.encode()
    assert [ref.key for ref in store.list(bucket, "")] == sorted(keys)


def test_an_object_that_never_existed_is_absent(store: S3Store, bucket: str) -> None:
    assert store.head(ObjectRef(bucket, "a.png")) is None
    assert store.head(ObjectRef(bucket, "folder/")) is None


def test_an_empty_object_is_read(store: S3Store, bucket: str) -> None:
    ref = put(store, bucket, data=b"")
    assert store.read(ref, etag_of(store, ref), 100).data == b""


@pytest.mark.parametrize("text", ["Grün", "😀" * 50, "日本語", "plain", "a, b; c=d", "100 %"])
def test_metadata_is_returned_unchanged(store: S3Store, bucket: str, text: str) -> None:
    ref = ObjectRef(bucket, "a.png")
    store.put(ref, DATA, "image/png", {"brand": text})
    state = store.head(ref)
    assert state is not None
    assert all(value.isascii() for value in state.metadata.values())
    assert Schema.declare({"brand": "keyword"}).parse(state.metadata) == ({"brand": text}, [])


def test_names_of_metadata_are_lower_case(store: S3Store, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="a", Body=DATA, Metadata={"Brand": "Acme", "SKU-No": "7"})
    state = store.head(ObjectRef(bucket, "a"))
    assert state is not None
    assert state.metadata == {"brand": "Acme", "sku-no": "7"}


# What changes while it is read


def test_a_replaced_object_is_not_read_as_the_old_one(store: S3Store, bucket: str) -> None:
    ref = put(store, bucket)
    old = etag_of(store, ref)
    put(store, bucket, data=b"other")
    with pytest.raises(ObjectChanged, match=r"a\.png was replaced"):
        store.read(ref, old, 100)
    assert store.read(ref, etag_of(store, ref), 100).data == b"other"


def test_an_object_deleted_before_it_is_read_has_changed(store: S3Store, bucket: str) -> None:
    ref = put(store, bucket)
    old = etag_of(store, ref)
    store.delete(ref)
    with pytest.raises(ObjectChanged, match=r"a\.png was deleted"):
        store.read(ref, old, 100)


def test_an_object_is_read_up_to_the_limit(store: S3Store, bucket: str) -> None:
    ref = put(store, bucket, data=b"x" * 1000)
    etag = etag_of(store, ref)
    assert len(store.read(ref, etag, 1000).data) == 1000
    with pytest.raises(ImageTooLarge, match="MiB"):
        store.read(ref, etag, 999)
    # the connection of the answer that was not read is of no harm
    assert len(store.read(ref, etag, 1000).data) == 1000


# Versions


def test_each_version_of_an_object_has_an_id_of_its_own(store: S3Store, versioned: str) -> None:
    ref = put(store, versioned)
    first = store.head(ref)
    put(store, versioned, data=b"other")
    second = store.head(ref)
    assert first is not None
    assert second is not None
    assert None not in {first.version_id, second.version_id}
    assert first.version_id != second.version_id


def test_a_delete_marker_hides_an_object_until_it_is_removed(
    store: S3Store, s3: Any, versioned: str
) -> None:
    ref = put(store, versioned)
    before = store.head(ref)
    assert before is not None
    store.delete(ref)
    assert store.head(ref) is None
    assert list(store.list(versioned, "")) == []
    with pytest.raises(ObjectChanged, match="deleted"):
        store.read(ref, before.etag, 100)

    [marker] = s3.list_object_versions(Bucket=versioned)["DeleteMarkers"]
    s3.delete_object(Bucket=versioned, Key=ref.key, VersionId=marker["VersionId"])
    assert store.head(ref) == before
    assert store.read(ref, before.etag, 100).data == DATA


# Tags


def test_tags_are_read_only_where_enabled(store: S3Store, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="a", Body=DATA, Tagging="Brand=Acme&colour=dark+red")
    ref = ObjectRef(bucket, "a")
    etag = etag_of(store, ref)
    assert store.read(ref, etag, 100).tags == {}
    reader = S3Store(s3, read_tags=True)
    assert reader.read(ref, etag, 100).tags == {"brand": "Acme", "colour": "dark red"}


def test_an_object_without_tags_has_none(store: S3Store, s3: Any, bucket: str) -> None:
    ref = put(store, bucket)
    assert S3Store(s3, read_tags=True).read(ref, etag_of(store, ref), 100).tags == {}


# Listing


def test_a_listing_keeps_to_its_prefix_and_starts_after_a_key(store: S3Store, bucket: str) -> None:
    for key in ("a/1", "a/2", "a/3", "b/1", "a"):
        put(store, bucket, key)
    assert [ref.key for ref in store.list(bucket, "a/")] == ["a/1", "a/2", "a/3"]
    assert [ref.key for ref in store.list(bucket, "a/", start_after="a/1")] == ["a/2", "a/3"]
    assert list(store.list(bucket, "none/")) == []


def test_a_listing_continues_beyond_its_first_page(s3: Any, bucket: str) -> None:
    pages = []

    def two_at_a_time(params: dict[str, Any], **_: Any) -> None:
        params["MaxKeys"] = 2
        pages.append(params)

    s3.meta.events.register("provide-client-params.s3.ListObjectsV2", two_at_a_time)
    store = S3Store(s3)
    for key in KEYS:
        put(store, bucket, key)
    assert sorted(ref.key for ref in store.list(bucket, "")) == sorted(KEYS)
    assert len(pages) == len(KEYS) / 2
    s3.meta.events.unregister("provide-client-params.s3.ListObjectsV2", two_at_a_time)


# What is wrong with S3, or with us


@pytest.mark.parametrize(
    "call",
    [
        lambda store, ref: store.read(ref, "e", 100),
        lambda store, ref: list(store.list(ref.bucket, "")),
        lambda store, ref: store.put(ref, DATA, "image/png", {}),
        lambda store, ref: store.delete(ref),
    ],
    ids=["read", "list", "put", "delete"],
)
def test_a_missing_bucket_is_a_configuration_error(
    store: S3Store, call: Callable[[S3Store, ObjectRef], object]
) -> None:
    with pytest.raises(
        ConfigurationError, match="S3 refused access to no-such-bucket: NoSuchBucket"
    ):
        call(store, ObjectRef("no-such-bucket", "a"))


def test_a_refused_connection_fails_soon(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", closed_port())
    store, start_s = S3Store(), time.monotonic()
    with pytest.raises(StoreUnavailable, match="EndpointConnectionError"):
        store.head(ObjectRef("photos", "a"))
    assert time.monotonic() - start_s < 15
    store._client.close()


# Presigned requests


def upload(
    http: urllib3.PoolManager, url: str, fields: Mapping[str, str], data: bytes = DATA
) -> int:
    form = [*fields.items(), ("file", ("photo.png", data))]
    return http.request("POST", url, fields=form).status


def test_a_presigned_form_uploads_exactly_what_it_was_created_for(
    store: S3Store, bucket: str, http: urllib3.PoolManager
) -> None:
    ref = ObjectRef(bucket, "uploads/1/Grün +%2B 😀.png")
    url, fields = store.presign_upload(ref, "image/png", {"brand": "Grün", "sku": "7"}, 1000, 60)
    assert upload(http, url, fields) in {200, 201, 204}
    state = store.head(ref)
    assert state is not None
    assert state.content_type == "image/png"
    assert Schema.declare({"brand": "keyword", "sku": "keyword"}).parse(state.metadata) == (
        {"brand": "Grün", "sku": "7"},
        [],
    )
    assert store.read(ref, state.etag, 1000).data == DATA


@pytest.mark.parametrize("region", ["eu-central-1", "af-south-1"])
def test_presigned_requests_go_to_the_buckets_own_region(
    region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    for name, value in {
        "DEFAULT_REGION": region,
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "b",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    store, ref = S3Store(), ObjectRef("photos-1", "a.png")
    url, _ = store.presign_upload(ref, "image/png", {}, 1000, 60)
    for signed in (url, store.presign_download(ref, 60)):
        assert signed.startswith(f"https://photos-1.s3.{region}.amazonaws.com/")
    store._client.close()


@pytest.mark.parametrize(
    "change",
    [
        {"Content-Type": "text/html"},
        {"key": "uploads/2/a.png"},
        {"x-amz-meta-brand": "zeta"},
        {"x-amz-meta-more": "1"},
        {"acl": "public-read"},
        {"Content-Type": None},
        {"x-amz-meta-brand": None},
        {"policy": None},
    ],
    ids=[
        "another type",
        "another key",
        "other metadata",
        "more metadata",
        "made public",
        "no type",
        "no metadata",
        "no policy",
    ],
)
def test_a_presigned_form_that_was_changed_is_refused(
    store: S3Store, bucket: str, http: urllib3.PoolManager, change: Mapping[str, str | None]
) -> None:
    ref = ObjectRef(bucket, "uploads/1/a.png")
    url, fields = store.presign_upload(ref, "image/png", {"brand": "acme"}, 1000, 60)
    changed = {name: text for name, text in {**fields, **change}.items() if text is not None}
    assert upload(http, url, changed) in {400, 403}
    assert list(store.list(bucket, "")) == []


@pytest.mark.parametrize(("size", "taken"), [(0, False), (1, True), (1000, True), (1001, False)])
def test_a_presigned_form_accepts_up_to_its_limit(
    store: S3Store, bucket: str, http: urllib3.PoolManager, size: int, taken: bool
) -> None:
    ref = ObjectRef(bucket, "a.png")
    url, fields = store.presign_upload(ref, "image/png", {}, 1000, 60)
    status = upload(http, url, fields, b"x" * size)
    assert (status in {200, 201, 204}) is taken
    assert (store.head(ref) is not None) is taken


def test_presigned_requests_expire(store: S3Store, bucket: str, http: urllib3.PoolManager) -> None:
    ref = put(store, bucket)
    url, fields = store.presign_upload(ref, "image/png", {}, 1000, 1)
    download = store.presign_download(ref, 1)
    time.sleep(2.1)
    assert upload(http, url, fields) == 403
    assert http.request("GET", download).status == 403


# clients remove "." and ".." from a URL's path before sending it (RFC 3986, section 5.2.4)
@pytest.mark.parametrize("key", [key for key in KEYS if "./" not in key])
def test_a_presigned_url_returns_the_object(
    store: S3Store, bucket: str, http: urllib3.PoolManager, key: str
) -> None:
    answer = http.request("GET", store.presign_download(put(store, bucket, key), 60))
    assert (answer.status, answer.data) == (200, DATA)
    assert answer.headers["content-type"] == "image/png"


def test_a_presigned_url_is_valid_for_its_object_only(
    store: S3Store, bucket: str, http: urllib3.PoolManager
) -> None:
    url = store.presign_download(put(store, bucket, "a.png"), 60)
    put(store, bucket, "b.png")
    assert http.request("GET", url.replace("a.png", "b.png")).status == 403
    assert http.request("PUT", url, body=b"x").status == 403


# The queue


@pytest.fixture
def sqs(aws: str) -> Iterator[Any]:
    client = boto3.client("sqs")
    yield client
    client.close()


@pytest.fixture
def queue_url(sqs: Any) -> str:
    url: str = sqs.create_queue(QueueName=f"hints-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    return url


def received(sqs: Any, url: str) -> list[Hint]:
    hints: list[Hint] = []
    while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
        for message in messages:
            hints += parse_message(message["Body"])
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return hints


def test_hints_are_sent_ten_at_a_time_and_parse_into_the_same_objects(
    sqs: Any, queue_url: str
) -> None:
    refs = [ObjectRef("photos", key) for key in [*KEYS, *(f"{i}.jpg" for i in range(7))]]
    sizes: list[int] = []

    def count(params: Mapping[str, Any], **_: Any) -> None:
        sizes.append(len(params["Entries"]))

    sqs.meta.events.register("provide-client-params.sqs.SendMessageBatch", count)
    assert SqsQueue(queue_url, sqs).send(iter(refs)) == 25
    assert sizes == [10, 10, 5]
    hints = received(sqs, queue_url)
    assert sorted(hint.ref for hint in hints) == sorted(refs)
    assert {(hint.sequencer, hint.event_time_s) for hint in hints} == {(0, None)}


def test_the_queue_reports_how_many_messages_wait(sqs: Any, queue_url: str) -> None:
    queue = SqsQueue(queue_url, sqs)
    assert queue.depth() == 0
    queue.send(ObjectRef("photos", f"{i}.jpg") for i in range(12))
    assert queue.depth() == 12
    received(sqs, queue_url)
    assert queue.depth() == 0


def test_no_hints_send_no_request(sqs: Any, queue_url: str) -> None:
    assert SqsQueue(queue_url, sqs).send([]) == 0
    assert received(sqs, queue_url) == []


def test_sending_to_a_missing_queue_fails(sqs: Any, queue_url: str) -> None:
    with pytest.raises(StoreUnavailable, match="queue"):
        SqsQueue(f"{queue_url}-not", sqs).send([ObjectRef("photos", "a.jpg")])

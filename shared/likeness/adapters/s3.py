"""ObjectStore over S3."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.utils import parse_timestamp

from likeness.errors import (
    ConfigurationError,
    ImageTooLarge,
    ObjectChanged,
    StoreUnavailable,
)
from likeness.filters import header_text
from likeness.records import ListedObject, ObjectBody, ObjectRef, ObjectState
from likeness.settings import MIB

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CONFIG = Config(
    connect_timeout=2,
    read_timeout=5,
    # botocore's `max_attempts` leaves out the first one; 3 × 7 s stay below the search's 28 s
    retries={"mode": "standard", "total_max_attempts": 3},
    signature_version="s3v4",
    # otherwise botocore signs forms and URLs for bucket.s3.amazonaws.com, which newer regions do
    # not answer under, and older ones only a day after the bucket was made
    s3={"addressing_style": "virtual"},
)
_ABSENT = {"404", "NoSuchKey", "NotFound", "NoSuchVersion"}
_CHANGED = {"412", "PreconditionFailed"}
_HIDDEN = {"405", "MethodNotAllowed"}  # HEAD of a delete marker by some S3-compatible stores
_FORBIDDEN = {"403", "AccessDenied", "NoSuchBucket", "InvalidAccessKeyId", "SignatureDoesNotMatch"}


class S3Store:
    """Safe to share between threads."""

    def __init__(self, client: S3Client | None = None, read_tags: bool = False) -> None:
        self._client: S3Client = client or _open()
        self._read_tags = read_tags

    def head(self, ref: ObjectRef) -> ObjectState | None:
        try:
            with _translated(ref):
                answer = self._client.head_object(Bucket=ref.bucket, Key=ref.key)
        except _Absent:
            return None
        return ObjectState(
            etag=answer["ETag"].strip('"'),
            version_id=_version(answer),
            size=answer["ContentLength"],
            content_type=answer.get("ContentType", ""),
            last_modified_s=answer["LastModified"].timestamp(),
            metadata={name.lower(): text for name, text in answer.get("Metadata", {}).items()},
        )

    def read(self, ref: ObjectRef, etag: str, max_bytes: int) -> ObjectBody:
        try:
            with _translated(ref):
                answer = self._client.get_object(
                    Bucket=ref.bucket, Key=ref.key, IfMatch=f'"{etag}"'
                )
                if answer["ContentLength"] > max_bytes:
                    answer["Body"].close()
                    raise ImageTooLarge(
                        f"{answer['ContentLength'] / MIB:.1f} MiB; "
                        f"at most {max_bytes / MIB:.1f} MiB are indexed"
                    )
                data = answer["Body"].read()
                tags = self._tags(ref) if answer.get("TagCount") else {}
        except _Absent as error:
            raise ObjectChanged(f"{ref.key} was deleted while it was read") from error
        return ObjectBody(data, tags)

    def list(self, bucket: str, prefix: str, start_after: str = "") -> Iterator[ObjectRef]:
        return (entry.ref for entry in self.entries(bucket, prefix, start_after))

    def entries(self, bucket: str, prefix: str, start_after: str = "") -> Iterator[ListedObject]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=prefix, StartAfter=start_after
        )
        with _translated(ObjectRef(bucket, prefix)):
            for page in pages:
                for item in page.get("Contents", []):
                    yield ListedObject(
                        ref=ObjectRef(bucket, item["Key"]),
                        etag=item["ETag"].strip('"'),
                        size=item["Size"],
                        last_modified_s=item["LastModified"].timestamp(),
                    )

    def put(
        self, ref: ObjectRef, data: bytes, content_type: str, metadata: Mapping[str, str]
    ) -> None:
        """Upload one object; for the command and the demo, no deployed function may do it."""
        with _translated(ref):
            self._client.put_object(
                Bucket=ref.bucket,
                Key=ref.key,
                Body=data,
                ContentType=content_type,
                Metadata={name: header_text(text) for name, text in metadata.items()},
            )

    def delete(self, ref: ObjectRef) -> None:
        with _translated(ref):
            self._client.delete_object(Bucket=ref.bucket, Key=ref.key)

    def presign_upload(
        self,
        ref: ObjectRef,
        content_type: str,
        metadata: Mapping[str, str],
        max_bytes: int,
        expires_s: int,
    ) -> tuple[str, dict[str, str]]:
        fixed = {"Content-Type": content_type}
        fixed |= {f"x-amz-meta-{name}": header_text(text) for name, text in metadata.items()}
        with _translated(ref):
            answer = self._client.generate_presigned_post(
                ref.bucket,
                ref.key,
                Fields=dict(fixed),
                Conditions=[
                    *({name: text} for name, text in fixed.items()),
                    ["content-length-range", 1, max_bytes],
                ],
                ExpiresIn=expires_s,
            )
        return answer["url"], answer["fields"]

    def presign_download(self, ref: ObjectRef, expires_s: int) -> str:
        return self._client.generate_presigned_url(
            "get_object", Params={"Bucket": ref.bucket, "Key": ref.key}, ExpiresIn=expires_s
        )

    def _tags(self, ref: ObjectRef) -> dict[str, str]:
        if not self._read_tags:
            return {}
        answer = self._client.get_object_tagging(Bucket=ref.bucket, Key=ref.key)
        return {tag["Key"].lower(): tag["Value"] for tag in answer["TagSet"]}


def _open() -> S3Client:
    """A client that parses times itself: with dateutil, a listing takes three times as long."""
    session = botocore.session.get_session()
    parsers = session.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=_time)
    return boto3.Session(botocore_session=session).client("s3", config=_CONFIG)


def _time(text: Any) -> datetime:
    try:
        return datetime.fromisoformat(text)  # a listing's; headers have RFC 9110's
    except (TypeError, ValueError):
        return parse_timestamp(text)


class _Absent(Exception):
    pass


class _translated(contextlib.AbstractContextManager[None]):  # noqa: N801 - reads as a verb
    """botocore's errors, by their meaning."""

    def __init__(self, ref: ObjectRef) -> None:
        self._ref = ref

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ClientError):
            code = error.response["Error"]["Code"]
            if code in _ABSENT | _HIDDEN:
                raise _Absent from error
            if code in _CHANGED:
                raise ObjectChanged(f"{self._ref.key} was replaced while it was read") from error
            if code in _FORBIDDEN:
                raise ConfigurationError(f"S3 refused {self._ref.bucket}: {code}") from error
            raise StoreUnavailable(f"S3 answered {code}") from error
        if isinstance(error, BotoCoreError | HTTPClientError):
            raise StoreUnavailable(f"S3 is not answering ({type(error).__name__})") from error


def _version(answer: Any) -> str | None:
    version = answer.get("VersionId")
    return None if version in (None, "null") else str(version)

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
    # total_max_attempts, because `max_attempts` does not count the first; 3 × 7 s < 28 s
    retries={"mode": "standard", "total_max_attempts": 3},
    signature_version="s3v4",
    # otherwise botocore signs forms and URLs for bucket.s3.amazonaws.com, which does not work in
    # newer regions, and in older ones only a day after the bucket was created
    s3={"addressing_style": "virtual"},
)
_NOT_FOUND = {"404", "NoSuchKey", "NotFound", "NoSuchVersion"}
_CHANGED = {"412", "PreconditionFailed"}
_DELETED = {"405", "MethodNotAllowed"}  # some S3-compatible stores, for HEAD of a delete marker
_FORBIDDEN = {"403", "AccessDenied", "NoSuchBucket", "InvalidAccessKeyId", "SignatureDoesNotMatch"}


class S3Store:
    """Safe to share between threads."""

    def __init__(self, client: S3Client | None = None, read_tags: bool = False) -> None:
        self._client: S3Client = client or _open()
        self._read_tags = read_tags

    def head(self, ref: ObjectRef) -> ObjectState | None:
        try:
            with _s3_errors(ref):
                answer = self._client.head_object(Bucket=ref.bucket, Key=ref.key)
        except _NotFound:
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
            with _s3_errors(ref):
                answer = self._client.get_object(
                    Bucket=ref.bucket, Key=ref.key, IfMatch=f'"{etag}"'
                )
                if answer["ContentLength"] > max_bytes:
                    answer["Body"].close()
                    raise ImageTooLarge(
                        f"the object has {answer['ContentLength'] / MIB:.1f} MiB; "
                        f"maximum is {max_bytes / MIB:.1f} MiB"
                    )
                data = answer["Body"].read()
                tags = self._tags(ref) if answer.get("TagCount") else {}
        except _NotFound as error:
            raise ObjectChanged(f"{ref.key} was deleted while it was read") from error
        return ObjectBody(data, tags)

    def list(self, bucket: str, prefix: str, start_after: str = "") -> Iterator[ObjectRef]:
        return (entry.ref for entry in self.entries(bucket, prefix, start_after))

    def entries(self, bucket: str, prefix: str, start_after: str = "") -> Iterator[ListedObject]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=prefix, StartAfter=start_after
        )
        with _s3_errors(ObjectRef(bucket, prefix)):
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
        """Upload an object, for the command and the demo: deployed functions may not do it."""
        with _s3_errors(ref):
            self._client.put_object(
                Bucket=ref.bucket,
                Key=ref.key,
                Body=data,
                ContentType=content_type,
                Metadata={name: header_text(text) for name, text in metadata.items()},
            )

    def delete(self, ref: ObjectRef) -> None:
        with _s3_errors(ref):
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
        with _s3_errors(ref):
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
    """A client with a faster parser of times: with dateutil a listing takes three times as long."""
    session = botocore.session.get_session()
    parsers = session.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=_parse_time)
    return boto3.Session(botocore_session=session).client("s3", config=_CONFIG)


def _parse_time(text: Any) -> datetime:
    try:
        return datetime.fromisoformat(text)  # in listings; headers use RFC 9110
    except (TypeError, ValueError):
        return parse_timestamp(text)


class _NotFound(Exception):
    pass


@contextlib.contextmanager
def _s3_errors(ref: ObjectRef) -> Iterator[None]:
    """Translates botocore's errors. Raises _NotFound where there is no such object."""
    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in _NOT_FOUND | _DELETED:
            raise _NotFound from error
        if code in _CHANGED:
            raise ObjectChanged(f"{ref.key} was replaced while it was read") from error
        if code in _FORBIDDEN:
            raise ConfigurationError(f"S3 refused access to {ref.bucket}: {code}") from error
        raise StoreUnavailable(f"S3 answered with the error {code}") from error
    except (BotoCoreError, HTTPClientError) as error:
        raise StoreUnavailable(f"S3 is not answering ({type(error).__name__})") from error


def _version(answer: Any) -> str | None:
    version = answer.get("VersionId")
    return None if version in (None, "null") else str(version)

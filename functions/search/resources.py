"""What few requests need, imported when one does.

boto3 with a client costs .1 s, and is needed for the bucket, which most searches never touch, and
for Qdrant's key where that is a secret; powertools costs 9 ms, and only what fails is logged. A
text encoder is as large as the image network.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from likeness.embedding import TextEmbedder
from likeness.ports import ObjectStore
from likeness.settings import MIB

if TYPE_CHECKING:
    from aws_lambda_powertools import Logger

_LOG_BYTES = 16 * MIB


@functools.cache
def open_store() -> ObjectStore:
    from likeness.adapters.s3 import S3Store  # noqa: PLC0415

    return S3Store()


def open_fetch(hosts: Sequence[str]) -> Callable[[str, int], bytes] | None:
    """What brings the bytes of an `image_url`, where any hosts are allowed.

    Raises ConfigurationError for what is no host.
    """
    if not hosts:
        return None
    from likeness.adapters.fetch import Fetcher  # noqa: PLC0415 - an HTTP client of its own

    return Fetcher(hosts).fetch


@functools.cache
def open_text_embedder(model_dir: Path, threads: int) -> TextEmbedder:
    return TextEmbedder(model_dir, threads)


def open_record(file: Path | None) -> Callable[[bytes], None]:
    """What takes the line about each answer: Lambda's log, or a file and one that came before."""
    if file is None:
        return _to_lambda

    def to_file(line: bytes) -> None:
        if file.exists() and file.stat().st_size > _LOG_BYTES:
            file.replace(file.with_suffix(".old"))
        with file.open("ab", buffering=0) as kept:
            kept.write(line + b"\n")

    return to_file


def _to_lambda(line: bytes) -> None:
    sys.stdout.write(f"{line.decode()}\n")  # in one piece: threads share it
    sys.stdout.flush()


@functools.cache
def open_logger() -> Logger:
    from aws_lambda_powertools import Logger  # noqa: PLC0415

    return Logger(service="search")

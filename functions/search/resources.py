"""Resources that few requests need; each is imported and opened at its first use.

boto3 with a client costs 0.1 s, and is needed only for the bucket, which most searches never touch,
and for Qdrant's key where it is a secret. Powertools costs 9 ms, and only failures are logged. A
text encoder is as large as the image network.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from likeness.embedding import TextEmbedder
from likeness.ports import ObjectStore
from likeness.settings import MIB

if TYPE_CHECKING:
    from aws_lambda_powertools import Logger

_LOG_BYTES = 16 * MIB
_OPENING = Lock()


def open_store() -> ObjectStore:
    with _OPENING:  # a search reads several objects at once
        return _open_store()


@functools.cache
def _open_store() -> ObjectStore:
    from likeness.adapters.s3 import S3Store  # noqa: PLC0415

    return S3Store()


def open_fetch(hosts: Sequence[str]) -> Callable[[str, int], bytes] | None:
    """A function that downloads an `image_url`; None where no hosts are allowed.

    Raises ConfigurationError for an invalid host name.
    """
    if not hosts:
        return None
    from likeness.adapters.fetch import Fetcher  # noqa: PLC0415 - brings its own HTTP client

    return Fetcher(hosts).fetch


@functools.cache
def open_text_embedder(model_dir: Path, threads: int) -> TextEmbedder:
    return TextEmbedder(model_dir, threads)


@functools.cache
def report_limit(why: str) -> None:
    """Log what a limit of the server costs: each sentence once in a process."""
    open_logger().warning("limited", why=why)


def open_record(file: Path | None) -> Callable[[bytes], None]:
    """A function that writes the line about each answer: to Lambda's log, or to a file of limited
    size; the previous file is kept.
    """
    if file is None:
        return _to_lambda

    def to_file(line: bytes) -> None:
        if file.exists() and file.stat().st_size > _LOG_BYTES:
            file.replace(file.with_suffix(".old"))
        with file.open("ab", buffering=0) as log:
            log.write(line + b"\n")

    return to_file


def _to_lambda(line: bytes) -> None:
    sys.stdout.write(f"{line.decode()}\n")  # in one write, because threads share the stream
    sys.stdout.flush()


@functools.cache
def open_logger() -> Logger:
    from aws_lambda_powertools import Logger  # noqa: PLC0415

    return Logger(service="search")

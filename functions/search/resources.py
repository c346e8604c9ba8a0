"""What few requests need, imported when one does.

boto3 costs 0.3 s, and most searches never touch the bucket; powertools costs 15 ms, and only what
fails is logged. A text tower is as large as the image network.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from likeness.embedding import TextEmbedder
from likeness.ports import ObjectStore

if TYPE_CHECKING:
    from aws_lambda_powertools import Logger


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
def open_words(model_dir: Path, threads: int) -> TextEmbedder:
    return TextEmbedder(model_dir, threads)


@functools.cache
def open_logger() -> Logger:
    from aws_lambda_powertools import Logger  # noqa: PLC0415

    return Logger(service="search")

"""What an index holds: its points, page by page, and of which bucket's objects they are."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Sequence

from likeness.errors import ConfigurationError, IndexMissing
from likeness.ports import VectorIndex
from likeness.records import Point
from likeness.settings import Settings

_PAGE = 1000


def index_name(settings: Settings) -> str:
    """Alias and server, as a command names them; without a password that the URL may contain."""
    return f"alias {settings.alias} at {re.sub('//[^/]*@', '//', settings.index_url)}"


def pages(index: VectorIndex, size: int = _PAGE) -> Iterator[Sequence[Point]]:
    """All points of the searched collection, deleted ones too. Raises IndexMissing without one."""
    cursor = None
    while True:
        page = index.scroll(size, cursor)
        yield page.points
        cursor = page.next_cursor
        if cursor is None:
            return


def check_bucket(index: VectorIndex, bucket: str, name: str) -> None:
    """Before a command touches an index whose points should be a bucket's, among others.

    Looks at the first thousand points, which are in order of their hashed ids and so a fair sample.
    Raises ConfigurationError, with the index's `name`, where none of them is the bucket's, or
    another application made the collection.
    """
    with contextlib.suppress(IndexMissing):
        index.info()
        points = next(pages(index))
        if points and all(point.ref.bucket != bucket for point in points):
            raise ConfigurationError(f"{name} {_held(points)} and none of s3://{bucket}")


def check_only_bucket(index: VectorIndex, bucket: str, name: str) -> None:
    """Before a service uses an alias as its own: all points of all its collections are looked at.

    Raises ConfigurationError, with the index's `name`, where one is another bucket's, or another
    application made a collection or the alias.
    """
    models = index.models()
    for view in (index, *map(index.for_model, models)):
        with contextlib.suppress(IndexMissing):  # no alias yet
            _check_ours(view, models, name)
            for points in pages(view):
                if foreign := [point for point in points if point.ref.bucket != bucket]:
                    raise ConfigurationError(f"{name} {_held(foreign)}, not only of s3://{bucket}")


def _check_ours(index: VectorIndex, models: Collection[str], name: str) -> None:
    with contextlib.suppress(ConfigurationError):  # its advice is to choose an alias
        if index.info().model in models:
            return
    raise ConfigurationError(f"{name}: its collection was made by another application")


def _held(points: Sequence[Point]) -> str:
    buckets = sorted({point.ref.bucket for point in points})
    return f"holds images of {', '.join(f's3://{bucket}' for bucket in buckets)}"

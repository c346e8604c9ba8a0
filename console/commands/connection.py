"""Which service, index, bucket and queue a command works with: the local ones or a stack's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rich.markup import escape

from ..client import Client, ServiceError
from ..local.data_folder import LocalService
from ..terminal import out

if TYPE_CHECKING:
    from likeness.ports import VectorIndex

_START_ONE = "no local service is running: start one with `likeness serve` (`make serve`), or"


def use_local(data: Path) -> LocalService | None:
    """The running local service, if there is one; AWS calls of this process then go there."""
    service = LocalService.running(data)
    if service:
        from ..local.aws import use_aws  # noqa: PLC0415

        use_aws(service.aws_url)
    return service


def connect(service: LocalService | None, url: str | None, api_key: str | None) -> Client:
    """A client of the service at `url`, or else of the local one. Raises ServiceError."""
    if url is None and service is None:
        raise ServiceError(f"{_START_ONE} name yours with --url or LIKENESS_URL")
    return Client(url or (service.api_url if service else ""), api_key)


def open_index(data: Path) -> tuple[VectorIndex, LocalService | None]:
    """The local service's index, or else the one at QDRANT_URL, which is named on the terminal.

    Raises ServiceError where neither is set, ConfigurationError where QDRANT_URL leads to an index
    of another bucket than LIKENESS_BUCKET.
    """
    service = use_local(data)
    if service:
        from ..local.index_sharing import RunningIndex  # noqa: PLC0415

        running = RunningIndex(service.index_port, service.index_key.encode())
        return cast("VectorIndex", running), service
    if not os.environ.get("QDRANT_URL"):
        raise ServiceError(f"{_START_ONE} name your index with QDRANT_URL and QDRANT_API_KEY")
    from likeness.adapters.index import open_index as open_deployed  # noqa: PLC0415
    from likeness.settings import Settings  # noqa: PLC0415

    from ..indexing.contents import check_bucket, index_name  # noqa: PLC0415

    settings = Settings.from_env(os.environ)
    name, bucket = index_name(settings), require_setting("LIKENESS_BUCKET", None)
    out.print(f"[bold]index[/bold]  {escape(name)}, images of s3://{bucket}", soft_wrap=True)
    index = open_deployed(settings)
    check_bucket(index, bucket, name)
    return index, None


def require_setting(name: str, local: str | None) -> str:
    """The local value, or else the environment variable. Raises ServiceError if neither is set."""
    value = local or os.environ.get(name)
    if not value:
        raise ServiceError(f"{name} is not set; it is among the outputs of a deployed stack")
    return value

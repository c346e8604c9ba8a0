"""What the index says about itself: the server's version, the collection, what its limits cost.

It is only read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

from likeness.errors import (
    IndexForbidden,
    IndexMissing,
    IndexUnauthorized,
    LikenessError,
    Unavailable,
)

from ..local.data_folder import LocalService
from .findings import Finding

if TYPE_CHECKING:
    from likeness.ports import VectorIndex


def check_index(env: Mapping[str, str], service: LocalService | None) -> Iterator[Finding]:
    """One finding for the index, and one for each limit of its strict mode that costs something.

    It is the local service's index, or else that of the server at QDRANT_URL.
    """
    try:
        if service:
            from ..local.index_sharing import RunningIndex  # noqa: PLC0415

            running = RunningIndex(service.index_port, service.index_key.encode())
            yield from _check(service.index_place, cast("VectorIndex", running))
        elif env.get("QDRANT_URL", "").startswith("http"):  # opening a folder would create it
            from likeness.adapters.index import open_index  # noqa: PLC0415
            from likeness.settings import Settings  # noqa: PLC0415

            from ..indexing.contents import index_name  # noqa: PLC0415

            settings = Settings.from_env(env)
            yield from _check(index_name(settings), open_index(settings))
        else:
            fix = "Set QDRANT_URL and QDRANT_API_KEY to check the Qdrant server too."
            yield Finding("index", True, "not checked", fix)
    except LikenessError as error:
        yield Finding("index", False, str(error))


def _check(place: str, index: VectorIndex) -> Iterator[Finding]:
    try:
        version = index.check_server()
        info = index.info()
    except IndexMissing:
        yield Finding("index", True, f"{place}: version {version}, nothing is indexed yet")
    except LikenessError as error:
        yield Finding("index", False, f"{place}: {error}", _fix(error))
    else:
        replicas = "1 replica" if info.replicas == 1 else f"{info.replicas} replicas"
        found = f"version {version}, {info.points} points in {info.name}, {replicas}"
        yield Finding("index", True, f"{place}: {found}")
        fix = f"Raise or remove this limit in the strict mode of {info.name}, or accept the cost."
        yield from (Finding("index", True, cost, fix) for cost in info.restrictions)


def _fix(error: LikenessError) -> str:
    match error:
        case IndexUnauthorized():
            return "Set QDRANT_API_KEY to a key that the server accepts."
        case IndexForbidden():
            return (
                "Use a key that may read the alias, its collections and the notes: "
                "docs/how-to/control-access.md."
            )
        case Unavailable():
            return "Is the server running, and is QDRANT_URL the address of its REST API?"
    return ""

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
    """One finding for the index, and one for each limit of its strict mode that costs something."""
    try:
        index = _open_index(env, service)
        if index is None:
            fix = "Set QDRANT_URL and QDRANT_API_KEY to check the Qdrant server too."
            yield Finding("index", True, "not checked", fix)
        else:
            yield from _index_findings(index)
    except LikenessError as error:
        yield Finding("index", False, str(error), _index_fix(error))


def _open_index(env: Mapping[str, str], service: LocalService | None) -> VectorIndex | None:
    """The local service's index, or else that of the server at QDRANT_URL."""
    if service:
        from ..local.index_sharing import RunningIndex  # noqa: PLC0415

        return cast("VectorIndex", RunningIndex(service.index_port, service.index_key.encode()))
    if not env.get("QDRANT_URL", "").startswith("http"):  # opening a folder would create it
        return None
    from likeness.adapters.index import open_index  # noqa: PLC0415
    from likeness.settings import Settings  # noqa: PLC0415

    return open_index(Settings.from_env(env))


def _index_findings(index: VectorIndex) -> Iterator[Finding]:
    found = f"version {index.check_server()}"
    try:
        info = index.info()
    except IndexMissing:
        yield Finding("index", True, f"{found}; nothing is indexed yet")
        return
    replicas = "1 replica" if info.replicas == 1 else f"{info.replicas} replicas"
    yield Finding("index", True, f"{found}, {info.points} points in {info.name}, {replicas}")
    for restriction in info.restrictions:
        fix = f"Raise or remove this limit in the strict mode of {info.name}, or accept the cost."
        yield Finding("index", True, restriction, fix)


def _index_fix(error: LikenessError) -> str:
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

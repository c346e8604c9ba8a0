"""Opens the vector index that the settings name: a Qdrant server or the embedded engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import unquote

from likeness.adapters.qdrant_layout import Layout
from likeness.adapters.secrets import read_secret
from likeness.errors import ConfigurationError
from likeness.ports import SearchIndex, VectorIndex
from likeness.settings import Settings

if TYPE_CHECKING:
    from likeness.adapters.qdrant_transport import Transport


def open_index(settings: Settings, patient: bool = False) -> VectorIndex:
    """The index at QDRANT_URL: http(s)://… for a server, file://… for the embedded engine.

    With `patient`, calls to a server that fails repeatedly wait for it instead of failing at once.
    Raises ConfigurationError for another URL.
    """
    layout = Layout(settings.alias, settings.schema)
    if transport := _open_transport(settings, patient):
        # the official client, which the search function's layer does not contain
        from likeness.adapters.qdrant_index import QdrantIndex  # noqa: PLC0415

        return QdrantIndex(transport, layout)
    # the deployed functions' layers do not contain the engine
    from likeness.adapters.qdrant_embedded import shared_index  # noqa: PLC0415

    return shared_index(unquote(settings.index_url.partition("://")[2]), layout)


def open_search_index(settings: Settings, report: Callable[[str], None]) -> SearchIndex:
    """The same index for searches, which need no official client: importing it takes a second.

    `report` gets each limit of the server that makes searches worse, once.
    """
    if transport := _open_transport(settings):
        from likeness.adapters.qdrant_view import QdrantView  # noqa: PLC0415

        return QdrantView(transport, Layout(settings.alias, settings.schema), report=report)
    return open_index(settings)


def _open_transport(settings: Settings, patient: bool = False) -> Transport | None:
    """The connection to a server; None for the embedded engine."""
    scheme, _, rest = settings.index_url.partition("://")
    if scheme == "file" and rest:
        return None
    if scheme not in ("http", "https"):
        raise ConfigurationError(
            f"QDRANT_URL: expected http(s)://... or file://..., got {scheme}://..."
        )
    from likeness.adapters.qdrant_transport import Transport  # noqa: PLC0415

    def read_key() -> str | None:
        if settings.index_api_key_secret:
            return read_secret(settings.index_api_key_secret)
        return settings.index_api_key

    return Transport(settings.index_url, read_key, settings.index_timeout_s, patient=patient)

"""Opens the vector index that the settings name: a Qdrant server or the embedded engine."""

from __future__ import annotations

from urllib.parse import unquote

from likeness.adapters.qdrant_layout import Layout
from likeness.adapters.secrets import read_secret
from likeness.errors import ConfigurationError
from likeness.ports import VectorIndex
from likeness.settings import Settings


def open_index(settings: Settings, patient: bool = False) -> VectorIndex:
    """The index at QDRANT_URL: http(s)://… for a server, file://… for the embedded engine.

    With `patient`, calls to a server that fails repeatedly wait for it instead of failing at once.
    Raises ConfigurationError for another URL.
    """
    layout = Layout(settings.alias, settings.schema)
    scheme, _, rest = settings.index_url.partition("://")
    if scheme in ("http", "https"):
        from likeness.adapters.qdrant_rest import RestIndex  # noqa: PLC0415
        from likeness.adapters.qdrant_transport import Transport  # noqa: PLC0415

        def read_key() -> str | None:
            if settings.index_api_key_secret:
                return read_secret(settings.index_api_key_secret)
            return settings.index_api_key

        transport = Transport(
            settings.index_url, read_key, settings.index_timeout_s, patient=patient
        )
        return RestIndex(transport, layout)
    if scheme == "file" and rest:
        # the runtime layer of the deployed functions does not contain the engine
        from likeness.adapters.qdrant_embedded import shared_index  # noqa: PLC0415

        return shared_index(unquote(rest), layout)
    raise ConfigurationError(
        f"QDRANT_URL: expected http(s)://... or file://..., got {scheme}://..."
    )

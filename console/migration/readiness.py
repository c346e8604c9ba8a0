"""Whether searches can be switched to the new model."""

from __future__ import annotations

from ..client import Client
from .filling import FillStatus
from .lifecycle import Migration

# Uploads that are being indexed may be missing from the new collection for a moment.
_MIN_FILLED = 0.99


def obstacles(
    migration: Migration, status: FillStatus, url: str | None, api_key: str | None
) -> list[str]:
    """Reasons not to switch; none if the new model is ready. Raises ServiceError."""
    found = []
    if status.share < _MIN_FILLED:
        found.append(f"only {status.share:.1%} of the objects are in the new collection")
    if url is None:
        found.append("it is unknown whether the service has the model: set LIKENESS_URL")
    elif migration.target not in Client(url, api_key).ready()["models"]:
        found.append(f"the service at {url} was not deployed with the new model")
    return found

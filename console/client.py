"""A client of the service's HTTP API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import urllib3


class _OnlyThrottled(urllib3.Retry):
    """urllib3 also waits for a 503 with Retry-After; here people should read its reason at once."""

    RETRY_AFTER_STATUS_CODES = frozenset({429})


# Retry a usage plan's 429 after the time it names, but no request that the service did not answer.
_RETRIES = _OnlyThrottled(
    8,
    connect=0,
    read=0,
    other=0,
    backoff_factor=0.5,
    status_forcelist=[429],
    allowed_methods=None,
    raise_on_status=False,
)


class ServiceError(Exception):
    """The service cannot be reached or refused the request; the message says what to do."""


class Client:
    """Every method raises ServiceError if the service refuses or does not answer."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise ServiceError(
                f"{url} is not a valid service URL: it must start with http:// or https://"
            )
        self._url = url.rstrip("/")
        headers = {"x-api-key": api_key} if api_key else {}
        self._pool = urllib3.PoolManager(headers=headers, retries=_RETRIES, timeout=30.0)
        self._headers = headers

    def search_image(self, data: bytes, **options: Any) -> dict[str, Any]:
        """Neighbours of an image, given its bytes; options as in POST /v1/search."""
        from likeness.images import sniff  # noqa: PLC0415 - loads the decoder

        kind = f"image/{(sniff(data) or 'jpeg').lower().replace(' ', '-')}"
        path = f"/v1/search?{_query(options)}"
        return self._call("POST", path, data, {"content-type": kind})

    def search(self, **fields: Any) -> dict[str, Any]:
        """Neighbours by id, key or vector: the JSON fields of POST /v1/search."""
        body = json.dumps(fields).encode()
        return self._call("POST", "/v1/search", body, {"content-type": "application/json"})

    def similar(self, image_id: str, **options: Any) -> dict[str, Any]:
        """Neighbours of an indexed image, without the image itself."""
        return self._call("GET", f"/v1/images/{image_id}/similar?{_query(options)}")

    def compare(self, first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
        """What two images have in common; each as a picture of POST /v1/compare."""
        body = json.dumps({"first": first, "second": second}).encode()
        return self._call("POST", "/v1/compare", body, {"content-type": "application/json"})

    def status(self, key: str) -> dict[str, Any]:
        """Whether the object with this key was indexed."""
        return self._call("GET", f"/v1/status?{urlencode({'key': key})}")

    def ready(self) -> dict[str, Any]:
        """The service's models, collection and number of points."""
        return self._call("GET", "/v1/ready")

    def _call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        try:
            response = self._pool.request(
                method, self._url + path, body=body, headers={**self._headers, **(headers or {})}
            )
            answer: dict[str, Any] = json.loads(response.data)
        except urllib3.exceptions.HTTPError as error:
            raise ServiceError(
                f"no service answers at {self._url}: start one with `likeness serve`, "
                "or name yours with --url or LIKENESS_URL"
            ) from error
        except ValueError as error:
            raise ServiceError(
                f"{self._url} is not a Likeness service: it did not answer with JSON"
            ) from error
        if response.status >= 400:
            # API Gateway's own errors have a message instead of a detail
            reason = answer.get("detail") or answer.get("message") or response.reason
            raise ServiceError(f"HTTP {response.status}: {reason}")
        return answer


def _query(options: Mapping[str, Any]) -> str:
    """A query string: texts unchanged, other values as JSON."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in options.items()
    }
    return urlencode(texts)

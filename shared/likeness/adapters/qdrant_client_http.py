"""The official client over our own transport: one deadline, one circuit, one table of refusals."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx
from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import ResponseHandlingException

from likeness.adapters.qdrant_transport import Transport
from likeness.errors import IndexUnavailable, LikenessError

# Transport knows the server; this only completes the client's requests.
_ANY_HOST = "http://qdrant"


class _HttpTransport(httpx.BaseTransport):
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode("ascii")
        data = self._transport.exchange(request.method, path, request.read() or None)
        return httpx.Response(200, content=data)


def open_client(transport: Transport) -> QdrantClient:
    """A client whose calls are `transport`'s; use it inside `client_errors`."""
    return QdrantClient(
        url=_ANY_HOST,
        port=None,
        check_compatibility=False,  # it only warns: see QdrantIndex.check_server
        transport=_HttpTransport(transport),
    )


@contextlib.contextmanager
def client_errors() -> Iterator[None]:
    """Around calls of the client: raises the transport's errors, which the client wraps, and
    IndexUnavailable for a response that it cannot parse.
    """
    try:
        yield
    # the client asserts that a response has a result
    except (ResponseHandlingException, AssertionError) as error:
        if isinstance(source := getattr(error, "source", None), LikenessError):
            raise source from None
        raise IndexUnavailable(
            "unexpected response from Qdrant: is this a Qdrant server?"
        ) from error

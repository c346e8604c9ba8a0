"""A small Qdrant server for tests: our REST calls, answered by qdrant-client's local mode.

Every body is parsed by qdrant-client's own models first, so a body that Qdrant would refuse fails
here too (400). Run as a script it serves until it is killed; `--port 0` picks a free one.
"""

from __future__ import annotations

import argparse
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pydantic
from qdrant_client import QdrantClient, models

COLLECTION = re.compile(r"/collections/([^/?]+)(/[^?]*)?(?:\?(.*))?")


class Refused(Exception):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Engine:
    """qdrant-client's local mode behind a lock, as a server with a single shard."""

    def __init__(self) -> None:
        self.client = QdrantClient(location=":memory:")
        self.lock = threading.Lock()
        self.payload_schema: dict[str, dict[str, Any]] = {}

    def call(self, method: str, path: str, body: Any) -> Any:
        with self.lock:
            try:
                return self._call(method, path, body)
            except pydantic.ValidationError as error:
                raise Refused(400, str(error)) from error
            except ValueError as error:
                raise Refused(404 if "not found" in str(error) else 400, str(error)) from error

    def _call(self, method: str, path: str, body: Any) -> Any:
        if (method, path) == ("GET", "/"):
            return {"title": "qdrant - vector search engine", "version": "1.19.0"}
        if (method, path) == ("GET", "/aliases"):
            return _plain(self.client.get_aliases())
        if (method, path) == ("POST", "/collections/aliases"):
            operations = _valid(models.ChangeAliasesOperation, body)
            return self.client.update_collection_aliases(operations.actions)
        if (method, path) == ("GET", "/collections"):
            return _plain(self.client.get_collections())
        matched = COLLECTION.fullmatch(path)
        if not matched:
            raise Refused(404, f"no route {path}")
        name, rest, _ = matched.groups()
        return getattr(self, f"{method.lower()}{(rest or '').replace('/', '_')}")(name, body)

    def get(self, name: str, body: None) -> Any:
        info = _plain(self.client.get_collection(name))
        info["payload_schema"] = self.payload_schema.get(self._real_name(name), {})
        return info

    def put(self, name: str, body: Any) -> Any:
        wanted = _valid(models.CreateCollection, body)
        if self.client.collection_exists(name):
            raise Refused(409, f"Collection `{name}` already exists!")
        self.payload_schema[name] = {}
        return self.client.create_collection(
            name, vectors_config=wanted.vectors, metadata=wanted.metadata
        )

    def delete(self, name: str, body: None) -> bool:
        if not self.client.collection_exists(name):
            raise Refused(404, f"Not found: Collection `{name}`")
        return self.client.delete_collection(name)

    def put_index(self, name: str, body: Any) -> Any:
        wanted = _valid(models.CreateFieldIndex, body)
        schema = self.payload_schema[self._real_name(name)]
        kind = getattr(wanted.field_schema, "type", wanted.field_schema)  # params, or just a name
        schema[wanted.field_name] = {"data_type": kind.value, "points": 0}
        return {"operation_id": 0, "status": "completed"}

    def post_points(self, name: str, body: Any) -> Any:
        wanted = _valid(models.PointRequest, body)
        return _plain(
            self.client.retrieve(
                name,
                wanted.ids,
                with_payload=wanted.with_payload,
                with_vectors=wanted.with_vector or False,
            )
        )

    def put_points(self, name: str, body: Any) -> Any:
        wanted = _valid(models.PointsList, body)
        done = self.client.upsert(name, wanted.points, update_filter=wanted.update_filter)
        return _plain(done)

    def post_points_query_batch(self, name: str, body: Any) -> Any:
        wanted = _valid(models.QueryRequestBatch, body)
        return [self._query(name, one) for one in wanted.searches]

    def _query(self, name: str, wanted: models.QueryRequest) -> Any:
        found = self.client.query_points(
            name,
            query=wanted.query,
            prefetch=wanted.prefetch,
            using=wanted.using,
            query_filter=wanted.filter,
            limit=wanted.limit,
            offset=wanted.offset,
            score_threshold=wanted.score_threshold,
            with_payload=wanted.with_payload,
            with_vectors=wanted.with_vector or False,
        )
        return _plain(found)

    def post_points_delete(self, name: str, body: Any) -> Any:
        selector = models.FilterSelector if "filter" in body else models.PointIdsList
        return _plain(self.client.delete(name, _valid(selector, body)))

    def post_points_scroll(self, name: str, body: Any) -> Any:
        wanted = _valid(models.ScrollRequest, body)
        points, cursor = self.client.scroll(
            name,
            scroll_filter=wanted.filter,
            limit=wanted.limit,
            offset=wanted.offset,
            with_payload=wanted.with_payload,
            with_vectors=wanted.with_vector or False,
        )
        return {"points": [_plain(point) for point in points], "next_page_offset": cursor}

    def post_facet(self, name: str, body: Any) -> Any:
        wanted = _valid(models.FacetRequest, body)
        return _plain(
            self.client.facet(
                name, wanted.key, facet_filter=wanted.filter, limit=wanted.limit or 10
            )
        )

    def _real_name(self, name: str) -> str:
        aliases = {a.alias_name: a.collection_name for a in self.client.get_aliases().aliases}
        return aliases.get(name, name)


class Handler(BaseHTTPRequestHandler):
    engine: Engine
    api_key: str | None = None
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        status, data = self.respond(self.rfile.read(int(self.headers.get("content-length") or 0)))
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def respond(self, body: bytes) -> tuple[int, bytes]:
        """Status and body: the part of a request that is slower here than on a real server."""
        status, answer = 401, {"status": {"error": "Invalid API key"}}
        if not self.api_key or self.headers.get("api-key") == self.api_key:
            try:
                parsed = json.loads(body) if body else None
                result = self.engine.call(self.command, self.path, parsed)
                status, answer = 200, {"result": result, "status": "ok", "time": 0.0}
                if self.path == "/":
                    answer = result
            except Refused as error:
                status, answer = error.status, {"status": {"error": str(error)}}
        return status, json.dumps(answer).encode()

    do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: Any) -> None:
        pass


def start(port: int = 0, api_key: str | None = None) -> ThreadingHTTPServer:
    """A server on loopback with an empty engine, running in a thread."""
    handler = type("BoundHandler", (Handler,), {"engine": Engine(), "api_key": api_key})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


def url_of(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def _valid(kind: Any, body: Any) -> Any:
    """Parsed by qdrant-client's model, and refused where it has fields the model does not know."""
    return kind.model_validate(body, extra="forbid")


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.model_dump(mode="json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=6333)
    parser.add_argument("--api-key")
    arguments = parser.parse_args()
    server = start(arguments.port, arguments.api_key)
    print(url_of(server), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()

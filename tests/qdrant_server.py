"""A small Qdrant server for tests: our REST calls, answered by qdrant-client's local mode.

Run as a script it serves until it is killed; `--port 0` picks a free one. With `--nodes 3` it is a
cluster of three nodes, each with a replica of everything, behind as many ports.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: its own folder is on the path, and not the tests' parent
    sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.qdrant_cluster import Cluster, Node, NodeDown, replicas
from tests.qdrant_engine import VERSION, Engine, Refused

__all__ = ["Engine", "Refused", "start", "start_cluster", "url_of"]

_READS = re.compile(
    r"GET .*|POST /collections/[^/]+(/points|/points/(query|query/batch|scroll|count)|/facet)"
)


class Handler(BaseHTTPRequestHandler):
    engine: Engine | Node
    api_key: str | None = None
    read_only_key: str | None = None
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            status, data = self.respond(body)
        except NodeDown:
            self.close_connection = True
            return
        self.send_response(status)
        is_text = status in (401, 403)
        self.send_header("content-type", "text/plain" if is_text else "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def respond(self, body: bytes) -> tuple[int, bytes]:
        """Status and body: the part of a request that is slower here than on a real server."""
        if refused := self._refused_key():
            return refused
        try:
            parsed = json.loads(body) if body else None
            result = self.engine.call(self.command, self.path, parsed)
        except json.JSONDecodeError as error:
            status, answer = 400, {"status": {"error": f"Format error in JSON body: {error}"}}
        except Refused as error:
            status, answer = error.status, {"status": {"error": str(error)}}
        else:
            status, answer = 200, {"result": result, "status": "ok", "time": 0.0}
            if self.path == "/":
                answer = result
        return status, json.dumps(answer).encode()

    def _refused_key(self) -> tuple[int, bytes] | None:
        given = self.headers.get("api-key")
        if not self.api_key or given == self.api_key or self.path == "/":
            return None
        if not given or given != self.read_only_key:
            return 401, b"Invalid API key or JWT"
        if not _READS.fullmatch(f"{self.command} {self.path.partition('?')[0]}"):
            return 403, b"Write access denied"
        return None

    do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: Any) -> None:
        pass


def start(
    port: int = 0,
    api_key: str | None = None,
    read_only_key: str | None = None,
    engine: Engine | Node | None = None,
    **options: Any,
) -> ThreadingHTTPServer:
    """A server on loopback with an empty engine, running in a thread. `options`: see Engine."""
    bound = {
        "engine": engine or Engine(**options),
        "api_key": api_key,
        "read_only_key": read_only_key,
    }
    handler = type("BoundHandler", (Handler,), bound)
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


def start_cluster(
    cluster: Cluster, port: int = 0, api_key: str | None = None, read_only_key: str | None = None
) -> list[ThreadingHTTPServer]:
    """A server for each node, on consecutive ports where one is named."""
    return [
        start(port and port + at, api_key, read_only_key, node)
        for at, node in enumerate(cluster.nodes)
    ]


def url_of(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=6333, help="of the first node")
    parser.add_argument("--api-key")
    parser.add_argument("--read-only-key")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--server-version", default=VERSION)
    parser.add_argument("--strict-mode", type=json.loads, help="JSON, as in strict_mode_config")
    given = parser.parse_args()
    keys = {"api_key": given.api_key, "read_only_key": given.read_only_key}
    options = {"version": given.server_version, "strict_mode": given.strict_mode}
    if given.nodes == 1:
        servers = [start(given.port, **keys, **options)]
    else:
        cluster = Cluster(replicas(given.nodes, **options), lag_s=0.002)
        servers = start_cluster(cluster, given.port, **keys)
    for server in servers:
        print(url_of(server), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()

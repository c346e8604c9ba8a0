"""The whole service on this machine: a local AWS, the real handlers and Qdrant.

MiniStack provides S3, its events and SQS on loopback. A thread passes the queue's messages to the
index function's handler; the search function's app answers on a local port. All data is in one
folder and survives a restart. The index is there too, in the embedded engine, or else on a server.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from likeness.adapters.index import open_index
from likeness.adapters.s3 import S3Store
from likeness.adapters.sqs import SqsQueue
from likeness.errors import IndexMissing
from likeness.ports import VectorIndex
from likeness.settings import Settings
from likeness.sync import settings_digest

from ..bundles.registry import BUNDLED_MODEL
from ..indexing.contents import pages
from . import index_server
from .aws import BUCKET, create_bucket_and_queue, ministack, poller, use_aws
from .data_folder import ANSWERS, LocalService, locked, recorded
from .index_server import IndexServer
from .index_sharing import share


@contextlib.contextmanager
def run(
    data: Path,
    port: int,
    environment: Mapping[str, str],
    server: IndexServer | None = None,
) -> Iterator[LocalService]:
    """Start everything, yield once the API answers, stop everything.

    `environment` holds further settings (see Settings.from_env). The index is in the data folder,
    or on `server`. Raises RuntimeError if another service uses the data folder, or the port is
    taken, and as index_server.prepare does.
    """
    data.mkdir(parents=True, exist_ok=True)
    with locked(data):
        settings = _settings(data, environment)
        if server:  # before anything else is started: it may be refused
            settings |= index_server.prepare(server, data, {**os.environ, **settings})
        with ministack(data / "aws") as aws_url:
            use_aws(aws_url)
            queue_url = create_bucket_and_queue()
            _configure_functions({**settings, "LIKENESS_QUEUE_URL": queue_url})
            with _running(data, port, aws_url, queue_url, server) as service:
                yield service


@contextlib.contextmanager
def _running(
    data: Path, port: int, aws_url: str, queue_url: str, server: IndexServer | None
) -> Iterator[LocalService]:
    # the functions' composition roots read the environment when they are imported
    from . import functions  # noqa: PLC0415

    settings = Settings.from_env(os.environ)
    index = open_index(settings)
    _send_hints_for_all(queue_url, index)
    key = secrets.token_hex(32)
    with (
        poller(queue_url, functions.index_handler),
        share(index, key.encode()) as index_port,
        http_server(functions.search_app, port) as api_url,
    ):
        service = LocalService(
            api_url=api_url,
            aws_url=aws_url,
            bucket=BUCKET,
            queue_url=queue_url,
            pid=os.getpid(),
            index_port=index_port,
            index_key=key,
            index_place=f"alias {settings.alias} at {server.url}" if server else f"{data}/index",
            settings=settings_digest(settings.schema, settings.limits, settings.tenant_prefix),
        )
        with recorded(service, data):
            yield service
    index.close()


def _settings(data: Path, environment: Mapping[str, str]) -> dict[str, str]:
    return {
        "QDRANT_URL": (data / "index").resolve().as_uri(),
        "LIKENESS_MODEL_DIR": os.environ.get("LIKENESS_MODEL_DIR", str(BUNDLED_MODEL)),
        "LIKENESS_BUCKET": BUCKET,
        "LIKENESS_UPLOAD_PREFIX": "uploads/",
        "LIKENESS_ANSWER_LOG": str(data / ANSWERS),
        "POWERTOOLS_METRICS_DISABLED": "true",
        "POWERTOOLS_LOG_LEVEL": os.environ.get("POWERTOOLS_LOG_LEVEL", "CRITICAL"),
        **environment,
    }


def _configure_functions(settings: Mapping[str, str]) -> None:
    os.environ |= settings
    from ..migration import lifecycle  # noqa: PLC0415 - loads onnxruntime, as the functions will

    # the index remembers a migration that an earlier process started: it needs both models
    migration = lifecycle.current(open_index(Settings.from_env(os.environ)))
    if migration:
        os.environ.setdefault("LIKENESS_NEXT_MODEL_DIR", migration.bundle)


def _send_hints_for_all(queue_url: str, index: VectorIndex) -> None:
    """Have every object checked: events are lost if the local AWS is killed.

    Another bucket's points are left alone: the local S3 has no such bucket, so they would be taken
    for deleted.
    """
    refs = set(S3Store().list(BUCKET, ""))
    with contextlib.suppress(IndexMissing):
        for points in pages(index):
            refs |= {point.ref for point in points if point.ref.bucket == BUCKET}
    SqsQueue(queue_url).send(sorted(refs))


@contextlib.contextmanager
def http_server(app: Any, port: int) -> Iterator[str]:
    """Serve an ASGI app on loopback, in a thread; yields its URL. Port 0 is any free port."""
    import uvicorn  # noqa: PLC0415 - only commands that serve need it

    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="http")
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError(f"port {port} is taken; choose another with --port")
            time.sleep(0.02)
        [listening] = server.servers[0].sockets
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()

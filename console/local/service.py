"""The whole service on this machine: a local AWS, the real handlers and embedded Qdrant.

MiniStack provides S3, its events and SQS on loopback. A thread passes the queue's messages to the
index function's handler; the search function's app answers on a local port. All data is in one
folder and survives a restart.
"""

from __future__ import annotations

import contextlib
import fcntl
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
from .aws import BUCKET, create_bucket_and_queue, ministack, poller, use_aws
from .data_folder import ANSWERS, LOCK, LocalService, recorded
from .index_sharing import share


@contextlib.contextmanager
def run(
    data: Path,
    port: int,
    environment: Mapping[str, str],
) -> Iterator[LocalService]:
    """Start everything, yield once the API answers, stop everything.

    `environment` holds further settings (see Settings.from_env). Raises RuntimeError if another
    service uses the data folder, or the port is taken.
    """
    data.mkdir(parents=True, exist_ok=True)
    with _locked(data), ministack(data / "aws") as aws_url:
        use_aws(aws_url)
        queue_url = create_bucket_and_queue()
        _configure_functions(data, queue_url, environment)
        # the functions' composition roots read the environment when they are imported
        from . import functions  # noqa: PLC0415

        index = open_index(Settings.from_env(os.environ))
        _send_hints_for_all(queue_url, index)
        key = secrets.token_hex(32)
        with (
            poller(queue_url, functions.index_handler),
            share(index, key.encode()) as index_port,
            http_server(functions.search_app, port) as api_url,
        ):
            settings = Settings.from_env(os.environ)
            digest = settings_digest(settings.schema, settings.limits, settings.tenant_prefix)
            service = LocalService(
                api_url, aws_url, BUCKET, queue_url, os.getpid(), index_port, key, digest
            )
            with recorded(service, data):
                yield service
        index.close()


def _configure_functions(data: Path, queue_url: str, environment: Mapping[str, str]) -> None:
    os.environ |= {
        "QDRANT_URL": (data / "index").resolve().as_uri(),
        "LIKENESS_MODEL_DIR": os.environ.get("LIKENESS_MODEL_DIR", str(BUNDLED_MODEL)),
        "LIKENESS_BUCKET": BUCKET,
        "LIKENESS_QUEUE_URL": queue_url,
        "LIKENESS_UPLOAD_PREFIX": "uploads/",
        "LIKENESS_ANSWER_LOG": str(data / ANSWERS),
        "POWERTOOLS_METRICS_DISABLED": "true",
        "POWERTOOLS_LOG_LEVEL": os.environ.get("POWERTOOLS_LOG_LEVEL", "CRITICAL"),
        **environment,
    }
    from ..migration import lifecycle  # noqa: PLC0415 - loads onnxruntime, as the functions will

    # the index remembers a migration that an earlier process started: it needs both models
    migration = lifecycle.current(open_index(Settings.from_env(os.environ)))
    if migration:
        os.environ.setdefault("LIKENESS_NEXT_MODEL_DIR", migration.bundle)


@contextlib.contextmanager
def _locked(data: Path) -> Iterator[None]:
    """Allow one service for each folder: a second would stop the first one's MiniStack."""
    with (data / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            running = LocalService.running(data)
            who = f"process {running.pid}, {running.api_url}" if running else "just starting"
            raise RuntimeError(
                f"another service ({who}) uses the data folder {data}: stop it with Ctrl-C there, "
                "or choose another folder with --data"
            ) from None
        yield


def _send_hints_for_all(queue_url: str, index: VectorIndex) -> None:
    """Have every object checked: events are lost if the local AWS is killed."""
    refs = set(S3Store().list(BUCKET, ""))
    with contextlib.suppress(IndexMissing):
        cursor = None
        while True:
            page = index.scroll(1000, cursor)
            refs |= {point.ref for point in page.points}
            cursor = page.next_cursor
            if cursor is None:
                break
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

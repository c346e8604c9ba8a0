"""Load test of the search app with wrk: requests/s, latency and errors, one worker per core.

    image_…   query by a photo of 640 × 480, `precise`: decode, embed, search, rerank
    id_…      query by the id of an indexed image: search, rerank
    …_requests_s, …_p50_ms, …_p99_ms, …_max_ms, …_errors (anything but a 2xx)

Each worker is a process on a core of its own, as on Lambda: uvicorn, and one thread for the
network. The embedded engine opens a folder for one process only, so each worker has a copy of the
index of benchmarks/query.py. There is no S3, no API Gateway and no network, and wrk shares the
workers' cores, which deployed functions have for themselves. Each connection sends its next request
when the last is answered: with more --connections than workers, the latency includes queueing. wrk
is in Debian and Homebrew (apt-get install wrk).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.embed import MODEL, jpegs
from console.local.data_folder import DEFAULT_DATA
from likeness.records import ObjectRef

SPAWN = multiprocessing.get_context("spawn")
SCRIPT = Path(__file__).with_suffix(".lua")
ALIAS = "bench"  # alias of the index of benchmarks/query.py
QUERY_IDS = 200


def build_index(folder: Path, points: int) -> Path:
    """The index of benchmarks/query.py, which pins its process to one core: call it in a child."""
    from benchmarks.query import open_or_make
    from likeness.embedding import Embedder

    return open_or_make(folder, points, Embedder(MODEL))


def run_worker(index: Path, port: int, core: int) -> None:
    """One worker; runs until it is terminated."""
    os.sched_setaffinity(0, {core})
    os.environ |= {
        "LIKENESS_ANSWER_LOG": os.devnull,  # as cheap as on Lambda, where it is written to a pipe
        "QDRANT_URL": index.resolve().as_uri(),
        "LIKENESS_ALIAS": ALIAS,
        "LIKENESS_MODEL_DIR": str(MODEL),
        "LIKENESS_THREADS": "1",
    }
    import uvicorn

    from functions.search.app import app

    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # all share the port
        listening.bind(("127.0.0.1", port))
        config = uvicorn.Config(app, log_level="warning", lifespan="off")
        uvicorn.Server(config).run([listening])


@contextlib.contextmanager
def service(index: Path, workers: int, folder: Path) -> Iterator[str]:
    """Workers that share one port; yields the URL of the search."""
    with socket.socket() as reserved:  # keeps the port bound; never listens
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        cores = sorted(os.sched_getaffinity(0))
        processes = []
        for number in range(workers):
            copy = shutil.copytree(index, folder / f"index-{number}")
            arguments = (copy, port, cores[number % len(cores)])
            processes.append(SPAWN.Process(target=run_worker, args=arguments))
            processes[-1].start()
            wait_until_ready(f"http://127.0.0.1:{port}/v1/ready", number + 1)
        try:
            yield f"http://127.0.0.1:{port}/v1/search"
        finally:
            for process in processes:
                process.terminate()
                process.join()


def wait_until_ready(url: str, workers: int) -> None:
    """Wait for several good answers in a row: each connection may reach another worker."""
    good, deadline_s = 0, time.monotonic() + 60
    while good < 4 * workers:
        try:
            with urllib.request.urlopen(url, timeout=5):
                good += 1
        except OSError:
            good = 0
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.2)


def run_wrk(
    url: str, bodies: Sequence[bytes], kind: str, connections: int, seconds: int, folder: Path
) -> dict[str, float]:
    """Send these requests with wrk; its figures."""
    files = [folder / f"{number}.body" for number in range(len(bodies))]
    for file, body in zip(files, bodies, strict=True):
        file.write_bytes(body)
    listing = folder / "bodies"
    listing.write_text("".join(f"{file}\n" for file in files))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
    output = subprocess.run(
        [*command, "-s", SCRIPT, url],
        env={**os.environ, "BODIES": str(listing), "CONTENT_TYPE": kind},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    figures: dict[str, float] = json.loads(output.splitlines()[-1])
    return {
        "requests_s": figures["requests"] / figures["seconds"],
        **{name: figures[name] for name in ("p50_ms", "p99_ms", "max_ms", "errors")},
    }


def measure(
    folder: Path, points: int, workers: int, connections: int, seconds: int
) -> dict[str, float]:
    with ProcessPoolExecutor(1, SPAWN) as pool:
        index = pool.submit(build_index, folder, points).result()
    ids = [ObjectRef(ALIAS, f"{number:06}.jpg").point_id for number in range(QUERY_IDS)]
    bodies_by_id = [json.dumps({"id": point_id}).encode() for point_id in ids]
    queries = {"image": (jpegs(640, 480), "image/jpeg"), "id": (bodies_by_id, "application/json")}
    found = {}
    with (
        tempfile.TemporaryDirectory(dir=folder) as temporary,
        service(index, workers, Path(temporary)) as url,
    ):
        for name, (bodies, kind) in queries.items():
            for length_s in (2, seconds):  # the first run only warms up
                figures = run_wrk(url, bodies, kind, connections, length_s, Path(temporary))
            found |= {f"{name}_{figure}": value for figure, value in figures.items()}
    return {
        **found,
        "points": points,
        "workers": workers,
        "connections": connections,
        "load_before": os.getloadavg()[0],
    }


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="a JSON object on the last line")
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=cores, help="(default: one per core)")
    parser.add_argument("--connections", type=int, default=2 * cores)
    parser.add_argument("--seconds", type=int, default=20, help="duration of each kind of query")
    parser.add_argument("--folder", type=Path, default=DEFAULT_DATA / "benchmarks")
    arguments = parser.parse_args()
    if not shutil.which("wrk"):
        parser.error("wrk is not installed: apt-get install wrk, or brew install wrk")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    found = measure(
        arguments.folder,
        arguments.points,
        arguments.workers,
        arguments.connections,
        arguments.seconds,
    )
    print(f"{arguments.workers} workers, {arguments.connections} connections")
    for kind in ("image", "id"):
        print(
            f"by {kind:<6} {found[f'{kind}_requests_s']:6.1f} requests/s   "
            f"p50 {found[f'{kind}_p50_ms']:6.1f}   p99 {found[f'{kind}_p99_ms']:6.1f} ms   "
            f"errors {found[f'{kind}_errors']:.0f}"
        )
    if arguments.json:
        print(json.dumps({name: round(value, 4) for name, value in found.items()}))
    sys.exit(1 if found["image_errors"] or found["id_errors"] else 0)


if __name__ == "__main__":
    main()

"""Load on the search app: requests/s, latency and errors with one worker a core, driven by wrk.

    image_…   a photo of 640 × 480 is sent, `precise`: decode, embed, search, rerank
    id_…      an indexed image is named: search, rerank
    …_requests_s, …_p50_ms, …_p99_ms, …_max_ms, …_errors (anything but a 2xx)

Each worker is a process of its own on a core of its own, as Lambda's are: uvicorn, one thread for
the network. The embedded engine opens a folder for one process only, so each has a copy of the
index, that of benchmarks/query.py. There is no S3, no gateway and no network here, and wrk takes
its time from the workers' cores: a deployed function has its own. Each connection sends its next
request when the last is answered: with --connections above the number of workers, waiting in line
is part of the latency. wrk comes with Debian and Homebrew (apt-get install wrk).
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
from console.local.runner import DEFAULT_DATA
from likeness.records import ObjectRef

SPAWN = multiprocessing.get_context("spawn")
SCRIPT = Path(__file__).with_suffix(".lua")
ALIAS = "bench"  # of benchmarks/query.py's index
NAMED = 200


def index_of(folder: Path, points: int) -> Path:
    """The index of benchmarks/query.py. It holds its process to one core: let it be another one."""
    from benchmarks.query import made
    from likeness.embedding import Embedder

    return made(folder, points, Embedder(MODEL))


def work(index: Path, port: int, core: int) -> None:
    """One worker, until it is ended."""
    os.sched_setaffinity(0, {core})
    os.environ |= {
        "LIKENESS_ANSWER_LOG": os.devnull,  # as cheap as Lambda's, which takes it over a pipe
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
    """Workers that answer on one port."""
    with socket.socket() as kept:  # bound, so that the port stays ours; it never listens
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept.bind(("127.0.0.1", 0))
        port = kept.getsockname()[1]
        cores = sorted(os.sched_getaffinity(0))
        started = []
        for number in range(workers):
            copy = shutil.copytree(index, folder / f"index-{number}")
            arguments = (copy, port, cores[number % len(cores)])
            started.append(SPAWN.Process(target=work, args=arguments))
            started[-1].start()
            until_ready(f"http://127.0.0.1:{port}/v1/ready", number + 1)
        try:
            yield f"http://127.0.0.1:{port}/v1/search"
        finally:
            for process in started:
                process.terminate()
                process.join()


def until_ready(url: str, tries: int) -> None:
    """Until so many answers in a row were good: each connection may meet another worker."""
    good, deadline_s = 0, time.monotonic() + 60
    while good < 4 * tries:
        try:
            with urllib.request.urlopen(url, timeout=5):
                good += 1
        except OSError:
            good = 0
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.2)


def driven(
    url: str, bodies: Sequence[bytes], kind: str, connections: int, seconds: int, folder: Path
) -> dict[str, float]:
    """What wrk says of these requests."""
    files = [folder / f"{number}.body" for number in range(len(bodies))]
    for file, body in zip(files, bodies, strict=True):
        file.write_bytes(body)
    listed = folder / "bodies"
    listed.write_text("".join(f"{file}\n" for file in files))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
    said = subprocess.run(
        [*command, "-s", SCRIPT, url],
        env={**os.environ, "BODIES": str(listed), "CONTENT_TYPE": kind},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    told: dict[str, float] = json.loads(said.splitlines()[-1])
    return {
        "requests_s": told["requests"] / told["seconds"],
        **{name: told[name] for name in ("p50_ms", "p99_ms", "max_ms", "errors")},
    }


def measure(
    folder: Path, points: int, workers: int, connections: int, seconds: int
) -> dict[str, float]:
    with ProcessPoolExecutor(1, SPAWN) as pool:
        index = pool.submit(index_of, folder, points).result()
    ids = [ObjectRef(ALIAS, f"{number:06}.jpg").point_id for number in range(NAMED)]
    named = [json.dumps({"id": point_id}).encode() for point_id in ids]
    queries = {"image": (jpegs(640, 480), "image/jpeg"), "id": (named, "application/json")}
    found = {}
    with (
        tempfile.TemporaryDirectory(dir=folder) as temporary,
        service(index, workers, Path(temporary)) as url,
    ):
        for name, (bodies, kind) in queries.items():
            for length_s in (2, seconds):  # warm first
                told = driven(url, bodies, kind, connections, length_s, Path(temporary))
            found |= {f"{name}_{figure}": value for figure, value in told.items()}
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
    parser.add_argument("--workers", type=int, default=cores, help="(default: one a core)")
    parser.add_argument("--connections", type=int, default=2 * cores)
    parser.add_argument("--seconds", type=int, default=20, help="for each kind of query")
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

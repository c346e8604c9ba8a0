"""Our downloader (console/bundles/hub.py) and huggingface-hub: the same faults, from one server.

    sent_again_mib   SIGKILL after 32 of 64 MiB: what the second run requests beyond the other half
    damaged          one byte differs, the size is right
    mirror           a mirror that redirects to its own host: the intact file, the damaged one
    token_leaked     whether the storage host behind the redirect receives the token
    offline_s        time until a closed port is reported
    retry_after_s    the hub answers 429 with `Retry-After: 4`: the pause before the next request
    proxy_used       whether HTTP_PROXY is honoured
    requests         for one file, without any fault

`hf_hub_download` is the library's public function alone. `http_get` joins the two halves it is made
of, `get_hf_file_metadata` and `http_get`; the library does not export the latter, and the partial
file and the comparison of the digest stay ours.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from console.bundles.hub import Hub, LockFile  # noqa: E402 - a script has its own folder on its path
from console.bundles.registry import Source  # noqa: E402
from tests.fault_server import Answer, FaultServer, Request, closed_port, serve  # noqa: E402

MIB = 1024 * 1024
SIZE = 64 * MIB
DATA = bytes(SIZE)
DAMAGED = DATA[:-1] + b"x"
SHA256 = hashlib.sha256(DATA).hexdigest()
SOURCE = Source("owner/model", "ab" * 20, "model.onnx")
CLIENTS = ("likeness", "hf_hub_download", "http_get")


def fetch(client: str, folder: Path) -> None:
    """One download. Raises whatever the client raises, ValueError for a digest that we compare."""
    if client == "likeness":
        lock = LockFile(folder / "lock.json")
        Hub.from_env().fetch(SOURCE, folder / "file", lock, lambda received, total: None)
        return
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.file_download import http_get

    if client == "hf_hub_download":
        hf_hub_download(SOURCE.repository, SOURCE.file, revision=SOURCE.revision, local_dir=folder)
        return
    url = hf_hub_url(SOURCE.repository, SOURCE.file, revision=SOURCE.revision)
    remote = get_hf_file_metadata(url, token=os.environ.get("HF_TOKEN"), retry_on_errors=True)
    part = folder / "file.part"
    with part.open("ab", buffering=0) as file:
        http_get(remote.location, file, resume_size=file.tell(), expected_size=remote.size)
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if remote.etag == SHA256 != found:
        raise ValueError("damaged")


class Storage:
    """The host of the bytes; with `cut`, its first body stops after so many and stays open."""

    def __init__(self, data: bytes = DATA, cut: int | None = None) -> None:
        self.requested_mib = 0.0
        self._data, self._cut = data, cut

    def __call__(self, request: Request) -> Answer:
        if request.method == "HEAD":
            return Answer(200, length=SIZE)
        start = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.requested_mib = (SIZE - start) / MIB
        sent, self._cut = self._cut, None
        headers = {"content-range": f"bytes {start}-{SIZE - 1}/{SIZE}"} if start else {}
        return Answer(206 if start else 200, self._data[start:], headers, sent=sent)


def hub(location: str, script: Callable[[Request], Answer | None]) -> Callable[[Request], Answer]:
    """The hub: it redirects to `location`, unless `script` has another answer."""
    published = {"x-linked-etag": f'"{SHA256}"', "x-linked-size": str(SIZE)}

    def answer(request: Request) -> Answer:
        if request.path.startswith("/api/"):  # huggingface-hub: which agents are known
            return Answer(404)
        redirect = {"x-repo-commit": SOURCE.revision, **published, "location": location}
        return script(request) or Answer(302, headers=redirect)

    return answer


@contextlib.contextmanager
def serving(
    storage: Storage, script: Callable[[Request], Answer | None] = lambda request: None
) -> Iterator[tuple[FaultServer, FaultServer]]:
    """The hub, and the host of the bytes behind its redirect."""
    with serve(storage) as bytes_host, serve(hub(f"{bytes_host.url}/file", script)) as server:
        yield server, bytes_host


def start(client: str, folder: str, endpoint: str, **more: str) -> subprocess.Popen[bytes]:
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": f"{folder}/home", **more}
    return subprocess.Popen(
        [sys.executable, __file__, "--fetch", client, folder],
        env={**os.environ, **own},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def outcome(client: str, endpoint: str, **more: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return "refused" if start(client, folder, endpoint, **more).wait(120) else "accepted"


def sent_again_mib(client: str) -> float:
    storage = Storage(cut=SIZE // 2)
    with tempfile.TemporaryDirectory() as folder, serving(storage) as (server, _):
        process = start(client, folder, server.url)
        # huggingface-hub writes 10 MiB at once
        while sum(path.stat().st_size for path in Path(folder).rglob("*")) < SIZE // 2 - 10 * MIB:
            if process.poll() is not None:
                raise RuntimeError(f"{client} ended before it was killed")
            time.sleep(0.05)
        time.sleep(1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if start(client, folder, server.url).wait(120):
            raise RuntimeError(f"{client} failed after it was killed")
    return storage.requested_mib - SIZE / MIB / 2


def retry_after_s(client: str) -> float:
    times: list[float] = []

    def script(request: Request) -> Answer | None:
        times.append(time.monotonic())
        return Answer(429, headers={"retry-after": "4"}) if len(times) == 1 else None

    with serving(Storage(), script) as (server, _):
        outcome(client, server.url)
    return times[1] - times[0]


def outcome_by_mirror(client: str, data: bytes) -> str:
    storage = Storage(data)
    with serve(hub("/file", lambda r: storage(r) if r.path == "/file" else None)) as mirror:
        return outcome(client, mirror.url)


def figures(client: str) -> dict[str, object]:
    with serving(Storage(DAMAGED)) as (server, _):
        damaged = outcome(client, server.url)
    with serving(Storage()) as (server, bytes_host):
        outcome(client, server.url, HF_TOKEN="secret")
        leaked = any("authorization" in request.headers for request in bytes_host.requests)
        requests = len(server.requests) + len(bytes_host.requests)
    began = time.monotonic()
    outcome(client, closed_port())
    offline_s = time.monotonic() - began
    with serve([Answer(404)]) as proxy:
        outcome(client, "http://hub.invalid", HTTP_PROXY=proxy.url, NO_PROXY="")
        proxy_used = bool(proxy.requests)
    return {
        "client": client,
        "sent_again_mib": sent_again_mib(client),
        "damaged": damaged,
        "mirror": [outcome_by_mirror(client, data) for data in (DATA, DAMAGED)],
        "token_leaked": leaked,
        "offline_s": round(offline_s, 1),
        "retry_after_s": round(retry_after_s(client), 1),
        "proxy_used": proxy_used,
        "requests": requests,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fetch", nargs=2, metavar=("CLIENT", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fetch:
        fetch(arguments.fetch[0], Path(arguments.fetch[1]))
    else:
        for client in CLIENTS:
            print(json.dumps(figures(client)), flush=True)


if __name__ == "__main__":
    main()

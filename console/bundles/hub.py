"""Files from the Hugging Face hub: resumed where they were cut off, and checked.

Of a large file the hub publishes the sha256 (`X-Linked-Etag`) and size (`X-Linked-Size`) in its
first, redirecting answer. Of a small one it does not: the first download is trusted, and every
later one held to it by a lock file.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urljoin, urlsplit

import msgspec
import urllib3
from msgspec import Struct

from .registry import Source

PUBLIC = "https://huggingface.co"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 16
_MB = 1e6
_MOST_REDIRECTS = 5
_PAUSES_S = (0.2, 1.0, 3.0, 8.0)
_PASSING = {408, 429, 500, 502, 503, 504}
_TIMEOUT = urllib3.Timeout(connect=10, read=60)


class HubError(Exception):
    """The file cannot be had; the message says why, and what to do."""


class _Interrupted(Exception):
    """A fault that may pass: what was received is kept, and the rest asked for again."""


class Progress(Protocol):
    """Told how many bytes are there, and how many there will be once that is known."""

    def __call__(self, done: int, total: int | None) -> None: ...


class Locked(Struct, frozen=True):
    """What a file was when it was first downloaded."""

    sha256: str
    size: int


class _Remote(Struct, frozen=True):
    url: str
    sha256: str | None
    size: int | None


class Lock:
    """A JSON file that says, of each file ever downloaded, what it was."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(self) -> dict[str, Locked]:
        if not self._path.exists():
            return {}
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Locked])
        except msgspec.DecodeError as error:
            raise HubError(f"{self._path} is no lock file: {error}; mend or delete it") from error

    def add(self, source: Source, locked: Locked) -> None:
        """Remember a file; raises HubError where it is not what it was."""
        entries = self.entries()
        before = entries.setdefault(str(source), locked)
        if before != locked:
            raise HubError(
                f"{source} is no longer what it was when it was first downloaded: sha256 "
                f"{locked.sha256[:12]}…, it was {before.sha256[:12]}…. If that is meant to be so, "
                f"delete its line in {self._path}"
            )
        text = msgspec.json.format(msgspec.json.encode(entries, order="deterministic"), indent=2)
        new = self._path.with_suffix(".new")
        new.write_bytes(text + b"\n")
        new.replace(self._path)


class Hub:
    """Downloads from one endpoint; `token` opens repositories that are not public."""

    def __init__(self, endpoint: str = PUBLIC, token: str | None = None) -> None:
        if not endpoint.startswith(("http://", "https://")):
            raise HubError(f"HF_ENDPOINT is {endpoint}: it must start with http:// or https://")
        self._endpoint = endpoint.rstrip("/")
        self._token = token
        self._pool = urllib3.PoolManager(retries=False, timeout=_TIMEOUT)

    @classmethod
    def from_env(cls) -> Hub:
        """The endpoint and token that Hugging Face's own tools take from the environment."""
        return cls(os.environ.get("HF_ENDPOINT") or PUBLIC, os.environ.get("HF_TOKEN") or None)

    def fetch(self, source: Source, target: Path, lock: Lock, progress: Progress) -> None:
        """Bring one file to `target`, whole and checked, or raise HubError.

        What is there already, as the lock knows it, is not downloaded again. What was cut off is
        kept in a file beside it, and the next call goes on from there.
        """
        known = lock.entries().get(str(source))
        if known and target.exists() and _locked(target) == known:
            progress(known.size, known.size)
            return
        part = target.with_name(f"{target.name}.part")
        published = self._patiently(lambda: self._receive(source, part, progress))
        found = _locked(part)
        if published and found.sha256 != published:
            part.unlink()
            raise HubError(
                f"{source} arrived damaged: its sha256 is {found.sha256[:12]}…, the hub says "
                f"{published[:12]}…. It was thrown away; run the command again"
            )
        lock.add(source, found)
        part.replace(target)

    def _patiently(self, receive: Callable[[], str | None]) -> str | None:
        for pause_s in (*_PAUSES_S, None):
            try:
                return receive()
            except _Interrupted as error:
                if pause_s is None:
                    raise HubError(
                        f"{error}; run the command again: it goes on from here"
                    ) from None
                time.sleep(pause_s)
        raise AssertionError("the last turn returns or raises")

    def _receive(self, source: Source, part: Path, progress: Progress) -> str | None:
        """One attempt to complete `part`; returns the published sha256, where there is one."""
        remote = self._look(source)
        # Without a hash nobody would see two versions patched together.
        done = part.stat().st_size if remote.sha256 and part.exists() else 0
        if remote.size is not None and done > remote.size:
            done = 0
        if remote.size is None or done != remote.size:
            _check_space(part.parent, (remote.size or 0) - done)
            for _, answer in self._hops(remote.url, done):
                self._check(answer.status, source)
                if answer.status in (200, 206):
                    start = done if answer.status == 206 else 0
                    _save(answer, part, start, lambda n: progress(n, remote.size))
        received = part.stat().st_size
        if remote.size is not None and received != remote.size:
            part.unlink()
            raise HubError(
                f"{source} has {received} bytes, the hub says {remote.size}. It was thrown away; "
                "run the command again"
            )
        return remote.sha256

    def _look(self, source: Source) -> _Remote:
        """Where the bytes of a file are, and what the hub says of them."""
        path = quote(f"{source.repository}/resolve/{source.revision}/{source.file}")
        url, size = f"{self._endpoint}/{path}", None
        for at, answer in self._hops(url, 0):
            self._check(answer.status, source)
            linked = answer.headers.get("x-linked-etag", "").strip('"')
            if _SHA256.fullmatch(linked):
                to = urljoin(at, answer.headers.get("location", ""))
                return _Remote(to, linked, _whole(answer.headers.get("x-linked-size")))
            url, size = at, _whole(answer.headers.get("content-length"))
        return _Remote(url, None, size)

    def _hops(self, url: str, start: int) -> Iterator[tuple[str, urllib3.BaseHTTPResponse]]:
        """Each answer on the way, until one is no redirect, with the URL that gave it."""
        for _ in range(_MOST_REDIRECTS):
            answer = self._get(url, start)
            try:
                yield url, answer
            finally:
                answer.close()
            if not 300 <= answer.status < 400:
                return
            url = urljoin(url, answer.headers.get("location", ""))
        raise HubError(f"{self._endpoint} redirects in circles")

    def _get(self, url: str, start: int) -> urllib3.BaseHTTPResponse:
        headers = {"accept-encoding": "identity", "user-agent": "likeness"}
        if start:
            headers["range"] = f"bytes={start}-"
        # to no other host: a signed link is all that a redirect needs
        if self._token and urlsplit(url).netloc == urlsplit(self._endpoint).netloc:
            headers["authorization"] = f"Bearer {self._token}"
        try:
            return self._pool.request(
                "GET", url, headers=headers, redirect=False, preload_content=False
            )
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError):
            raise HubError(
                f"cannot reach {self._endpoint}: is this machine offline? HF_ENDPOINT names a "
                "mirror. Or download the files elsewhere: `likeness model import` takes them"
            ) from None
        except urllib3.exceptions.SSLError as error:
            raise HubError(f"{self._endpoint} shows no certificate to trust: {error}") from None
        except urllib3.exceptions.HTTPError as error:
            raise _Interrupted(f"{self._endpoint} broke off ({type(error).__name__})") from error

    def _check(self, status: int, source: Source) -> None:
        if status in (200, 206) or 300 <= status < 400:
            return
        if status in _PASSING:
            raise _Interrupted(f"the hub answered {status} for {source}")
        if status in (401, 403):
            why = "its token HF_TOKEN does not open it" if self._token else "it wants a token"
            raise HubError(
                f"the hub refuses {source} ({status}): {why}, or the repository is gone. Accept "
                "its terms on its page, and set HF_TOKEN"
            )
        if status == 404:
            raise HubError(
                f"the hub has no {source} (404): it was moved or deleted. `likeness model import` "
                "takes the file from wherever you find it"
            )
        raise HubError(f"the hub answered {status} for {source}")


def _locked(path: Path) -> Locked:
    with path.open("rb") as file:
        return Locked(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)


def _whole(header: str | None) -> int | None:
    return int(header) if header and header.isdecimal() else None


def _check_space(folder: Path, to_come: int) -> None:
    free = shutil.disk_usage(folder).free
    if to_come > free:
        raise HubError(
            f"{folder} has no room: {to_come / _MB:,.0f} MB are to come, {free / _MB:,.0f} MB are "
            "free. Free some, or name another folder with --models"
        )


def _save(
    answer: urllib3.BaseHTTPResponse, part: Path, start: int, progress: Callable[[int], None]
) -> None:
    """Write the answer's bytes to `part` from `start` on; a kill loses one chunk at most."""
    with part.open("r+b" if start else "wb", buffering=0) as file:
        done = file.seek(start)
        try:
            for chunk in answer.stream(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                progress(done)
        except urllib3.exceptions.HTTPError as error:
            raise _Interrupted(f"the connection was cut after {done / _MB:.1f} MB") from error

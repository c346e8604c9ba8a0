"""Files from the Hugging Face hub: resumed after an interruption, and verified.

For a large file the hub publishes the sha256 (`X-Linked-Etag`) and size (`X-Linked-Size`) in its
first, redirecting response. For a small one it does not: the first download is trusted, and a lock
file pins its digest for every later one.
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

PUBLIC_ENDPOINT = "https://huggingface.co"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 16
_MB = 1e6
_MAX_REDIRECTS = 5
_RETRY_DELAYS_S = (0.2, 1.0, 3.0, 8.0)
_TRANSIENT_STATUSES = {408, 429, 500, 502, 503, 504}
_TIMEOUT = urllib3.Timeout(connect=10, read=60)


class HubError(Exception):
    """The file cannot be downloaded; the message says why, and what to do."""


class _TransientError(Exception):
    """A retry may succeed: what was received is kept, and only the rest is requested again."""


class Progress(Protocol):
    """Called with the bytes received so far, and with the file's size once that is known."""

    def __call__(self, received: int, total: int | None) -> None: ...


class FileDigest(Struct, frozen=True):
    """What the lock file pins: a file's sha256 (hex) and its size in bytes."""

    sha256: str
    size: int


class _RemoteFile(Struct, frozen=True):
    """Where a file's bytes are; digest and size are None if the hub does not publish them."""

    url: str
    sha256: str | None
    size: int | None


class LockFile:
    """A JSON file with the digest of every file downloaded so far."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(self) -> dict[str, FileDigest]:
        """Digests by source. Raises HubError if the file cannot be parsed."""
        if not self._path.exists():
            return {}
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, FileDigest])
        except msgspec.DecodeError as error:
            raise HubError(
                f"{self._path} is not a valid lock file: {error}; repair or delete it"
            ) from error

    def add(self, source: Source, digest: FileDigest) -> None:
        """Pin a file's digest. Raises HubError if another digest is pinned already."""
        entries = self.entries()
        pinned = entries.setdefault(str(source), digest)
        if pinned != digest:
            raise HubError(
                f"{source} has changed since its first download: its sha256 is "
                f"{digest.sha256[:12]}…, it was {pinned.sha256[:12]}…. If the change is intended, "
                f"delete its line in {self._path}"
            )
        text = msgspec.json.format(msgspec.json.encode(entries, order="deterministic"), indent=2)
        new = self._path.with_suffix(".new")
        new.write_bytes(text + b"\n")
        new.replace(self._path)


class Hub:
    """Downloads from one endpoint; `token` grants access to gated and private repositories."""

    def __init__(self, endpoint: str = PUBLIC_ENDPOINT, token: str | None = None) -> None:
        if not endpoint.startswith(("http://", "https://")):
            raise HubError(f"HF_ENDPOINT is {endpoint}: it must start with http:// or https://")
        self._endpoint = endpoint.rstrip("/")
        self._token = token
        self._pool = urllib3.PoolManager(retries=False, timeout=_TIMEOUT)

    @classmethod
    def from_env(cls) -> Hub:
        """Endpoint and token from HF_ENDPOINT and HF_TOKEN, as in Hugging Face's own tools."""
        endpoint = os.environ.get("HF_ENDPOINT") or PUBLIC_ENDPOINT
        return cls(endpoint, os.environ.get("HF_TOKEN") or None)

    def fetch(self, source: Source, target: Path, lock: LockFile, progress: Progress) -> None:
        """Download one file to `target`, complete and verified, or raise HubError.

        A target that matches its pinned digest is not downloaded again. An interrupted download
        stays next to it as a .part file, and the next call resumes it.
        """
        pinned = lock.entries().get(str(source))
        if pinned and target.exists() and _digest(target) == pinned:
            progress(pinned.size, pinned.size)
            return
        part = target.with_name(f"{target.name}.part")
        published = self._with_retries(lambda: self._download(source, part, progress))
        found = _digest(part)
        if published and found.sha256 != published:
            part.unlink()
            raise HubError(
                f"{source} arrived damaged: its sha256 is {found.sha256[:12]}…, the hub says "
                f"{published[:12]}…. The download was deleted; run the command again"
            )
        lock.add(source, found)
        part.replace(target)

    def _with_retries(self, download: Callable[[], str | None]) -> str | None:
        for delay_s in (*_RETRY_DELAYS_S, None):
            try:
                return download()
            except _TransientError as error:
                if delay_s is None:
                    raise HubError(f"{error}; run the command again to resume") from None
                time.sleep(delay_s)
        raise AssertionError("the last attempt returns or raises")

    def _download(self, source: Source, part: Path, progress: Progress) -> str | None:
        """One attempt to complete `part`; returns the published sha256, if there is one."""
        remote = self._resolve(source)
        # Without a hash, parts of two versions could be joined unnoticed.
        received = part.stat().st_size if remote.sha256 and part.exists() else 0
        if remote.size is not None and received > remote.size:
            received = 0
        if remote.size is None or received != remote.size:
            _require_space(part.parent, (remote.size or 0) - received)
            for _, response in self._follow(remote.url, received):
                self._raise_for_status(response.status, source)
                if response.status in (200, 206):
                    start = received if response.status == 206 else 0
                    _write(response, part, start, lambda n: progress(n, remote.size))
        size = part.stat().st_size
        if remote.size is not None and size != remote.size:
            part.unlink()
            raise HubError(
                f"{source} has {size} bytes, the hub says {remote.size}. The download was deleted; "
                "run the command again"
            )
        return remote.sha256

    def _resolve(self, source: Source) -> _RemoteFile:
        """Where a file's bytes are, with the digest and size that the hub publishes."""
        path = quote(f"{source.repository}/resolve/{source.revision}/{source.file}")
        url, size = f"{self._endpoint}/{path}", None
        for requested, response in self._follow(url, 0):
            self._raise_for_status(response.status, source)
            sha256 = response.headers.get("x-linked-etag", "").strip('"')
            if _SHA256.fullmatch(sha256):
                location = urljoin(requested, response.headers.get("location", ""))
                size = _parse_length(response.headers.get("x-linked-size"))
                return _RemoteFile(location, sha256, size)
            url, size = requested, _parse_length(response.headers.get("content-length"))
        return _RemoteFile(url, None, size)

    def _follow(self, url: str, start: int) -> Iterator[tuple[str, urllib3.BaseHTTPResponse]]:
        """Each response with its URL, redirects first, up to one that is not a redirect."""
        for _ in range(_MAX_REDIRECTS):
            response = self._get(url, start)
            try:
                yield url, response
            finally:
                response.close()
            if not 300 <= response.status < 400:
                return
            url = urljoin(url, response.headers.get("location", ""))
        raise HubError(f"{self._endpoint} redirects in circles")

    def _get(self, url: str, start: int) -> urllib3.BaseHTTPResponse:
        headers = {"accept-encoding": "identity", "user-agent": "likeness"}
        if start:
            headers["range"] = f"bytes={start}-"
        # Never to another host: a redirect to storage is a signed link and needs no token.
        if self._token and urlsplit(url).netloc == urlsplit(self._endpoint).netloc:
            headers["authorization"] = f"Bearer {self._token}"
        try:
            return self._pool.request(
                "GET", url, headers=headers, redirect=False, preload_content=False
            )
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError):
            raise HubError(
                f"cannot reach {self._endpoint}: is this machine offline? HF_ENDPOINT names a "
                "mirror. Or download the files elsewhere and use `likeness model import`"
            ) from None
        except urllib3.exceptions.SSLError as error:
            raise HubError(f"{self._endpoint} has no trusted certificate: {error}") from None
        except urllib3.exceptions.HTTPError as error:
            raise _TransientError(
                f"{self._endpoint} closed the connection ({type(error).__name__})"
            ) from error

    def _raise_for_status(self, status: int, source: Source) -> None:
        if status in (200, 206) or 300 <= status < 400:
            return
        if status in _TRANSIENT_STATUSES:
            raise _TransientError(f"the hub answered {status} for {source}")
        if status in (401, 403):
            why = "HF_TOKEN does not grant access" if self._token else "it requires a token"
            raise HubError(
                f"the hub refuses {source} ({status}): {why}, or the repository is gone. Accept "
                "its terms on its page, and set HF_TOKEN"
            )
        if status == 404:
            raise HubError(
                f"the hub does not have {source} (404): it was moved or deleted. If you have the "
                "file from elsewhere, use `likeness model import`"
            )
        raise HubError(f"the hub answered {status} for {source}")


def _digest(path: Path) -> FileDigest:
    with path.open("rb") as file:
        return FileDigest(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)


def _parse_length(header: str | None) -> int | None:
    return int(header) if header and header.isdecimal() else None


def _require_space(folder: Path, required_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if required_bytes > free_bytes:
        raise HubError(
            f"not enough disk space in {folder}: {required_bytes / _MB:,.0f} MB required, "
            f"{free_bytes / _MB:,.0f} MB free. Free some, or choose another folder with --models"
        )


def _write(
    response: urllib3.BaseHTTPResponse, part: Path, start: int, progress: Callable[[int], None]
) -> None:
    """Write the response's body to `part` from `start` on; a kill loses at most one chunk."""
    with part.open("r+b" if start else "wb", buffering=0) as file:
        received = file.seek(start)
        try:
            for chunk in response.stream(_CHUNK_BYTES):
                file.write(chunk)
                received += len(chunk)
                progress(received)
        except urllib3.exceptions.HTTPError as error:
            raise _TransientError(
                f"the connection was lost after {received / _MB:.1f} MB"
            ) from error

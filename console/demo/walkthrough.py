"""The demo: uploads, searches, overwrites and deletes images, and checks every known answer."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID
from rich.table import Table

from likeness.adapters.s3 import S3Store
from likeness.records import ObjectRef

from .. import html_report
from ..client import Client, ServiceError
from ..indexing import uploads
from ..local import service as local_service
from ..local.data_folder import LOCK, LocalService
from ..local.index_server import IndexServer, opened, remembered_alias
from . import sample_images
from .sample_images import Item

_MAX_QUERIED = 24
_LIMIT = 5
_MIN_IMAGES = 3
_DEMO_FOLDERS = ("aws", "index")
# Results whose cosines differ by less are the same image under two keys.
_SAME_COSINE = 1e-3
# Products of one shape differ only in colour, and edits shift colours: an edited copy counts as
# found up to this rank. The summary also says how many have rank 1.
_MAX_RANK = 4


@dataclass(frozen=True)
class Check:
    """One check of a known answer: the rank of the expected key, or a statement."""

    name: str
    ok: bool
    found: str
    first: bool = False
    query: bytes | None = None
    results: Sequence[dict[str, Any]] = ()
    expected: str | None = None
    took_ms: float = 0.0


class Demo:
    def __init__(self, client: Client, store: S3Store, bucket: str, out: Console) -> None:
        self._client = client
        self._store = store
        self._bucket = bucket
        self._out = out

    def upload(self, items: Sequence[Item]) -> uploads.Summary:
        with Progress(console=self._out) as progress:
            sending = progress.add_task("uploading  ", total=len(items))
            indexed = progress.add_task("searchable ", total=len(items))
            etags: dict[str, str | None] = {}
            for item in items:
                etags[item.key] = self._put(item.key, item.data, item)
                progress.advance(sending)
            return uploads.wait_until_indexed(self._client, etags, _advance(progress, indexed))

    def search_with_edits(self, items: Sequence[Item]) -> list[Check]:
        checks = []
        for i, item in enumerate(items):
            for edit in list(sample_images.EDITS)[i % 3 :: 3]:
                query = sample_images.edited(item, edit)
                answer = self._client.search_image(query, limit=_LIMIT)
                name = f"{item.key} {edit}"
                checks.append(_ranked(name, answer, item.key, query))
        return checks

    def search_by_id(self, item: Item) -> Check:
        """Search by id: another product of the same kind is found, the product itself is not."""
        image_id = ObjectRef(self._bucket, item.key).point_id
        answer = self._client.similar(image_id, limit=_LIMIT)
        keys = [result["key"] for result in answer["results"]]
        kind = item.key.rpartition("-")[0]
        ok = item.key not in keys and any(key.startswith(kind) for key in keys[:3])
        name = f"similar to {item.key}, by its id"
        return Check(name, ok, ", ".join(keys[:3]), False, item.data, answer["results"])

    def search_with_filter(self, item: Item) -> Check:
        """Search with a filter: only products of the same kind that cost less than a hundred."""
        kind = item.metadata["category"]
        conditions = {
            "must": [
                {"key": "category", "match": {"value": kind}},
                {"key": "price", "range": {"lt": 100}},
            ]
        }
        answer = self._client.search_image(item.data, limit=_LIMIT, filter=conditions)
        found = [result["payload"] for result in answer["results"]]
        ok = bool(found) and all(p["category"] == kind and p["price"] < 100 for p in found)
        name = f"{kind} below 100, similar to {item.key}"
        return Check(name, ok, f"{len(found)} results", False, item.data, answer["results"])

    def overwrite(self, item: Item, other: Item) -> Check:
        """Overwrite an object: it is found with its new image, and no longer with the old one."""
        etag = self._put(item.key, _mirrored(other), item)
        uploads.wait_until_indexed(self._client, {item.key: etag}, lambda n: None)
        new = self._client.search_image(_mirrored(other), limit=1)["results"]
        old = self._client.search_image(item.data, limit=_LIMIT)["results"]
        old_is_gone = all(r["key"] != item.key or r["score"] < 0.99 for r in old)
        ok = _first_key(new) == item.key and old_is_gone
        return Check(f"{item.key} overwritten: found with its new image", ok, _first_key(new))

    def delete(self, item: Item) -> Check:
        """Delete an object: it is no longer found."""
        self._store.delete(ObjectRef(self._bucket, item.key))
        deadline_s = time.monotonic() + 30
        while self._client.status(item.key)["state"] != "gone" and time.monotonic() < deadline_s:
            time.sleep(0.05)
        results = self._client.search_image(item.data, limit=_LIMIT)["results"]
        ok = all(result["key"] != item.key for result in results)
        return Check(f"{item.key} deleted: no longer found", ok, _first_key(results))

    def reject(self) -> Check:
        """Upload a text file with an image's suffix: it is rejected with a reason."""
        etag = self._put("broken/letter.jpg", b"Dear Sir or Madam, this is not an image.")
        summary = uploads.wait_until_indexed(
            self._client, {"broken/letter.jpg": etag}, lambda n: None
        )
        reason = summary.rejected.get("broken/letter.jpg", "not rejected")
        return Check("a text file named letter.jpg is rejected", "not-an-image" in reason, reason)

    def _put(self, key: str, data: bytes, item: Item | None = None) -> str:
        metadata = item.metadata if item else {}
        return uploads.upload(self._store, ObjectRef(self._bucket, key), data, metadata)


def run(images: Path | None, data: Path, out: Console, server: IndexServer | None = None) -> bool:
    """Run the demo with a folder's images, or the included ones; returns whether all checks pass.

    Writes results.html into the data folder. Nothing is left on `server`, which may hold the index.
    Raises RuntimeError if the folder has too few images.
    """
    if images and (count := len(uploads.image_files(images))) < _MIN_IMAGES:
        raise RuntimeError(
            f"{images} contains {count} images; the demo needs {_MIN_IMAGES} or more"
        )
    _empty(data)
    out.print("[bold]1[/bold]  starting a local S3, SQS and both functions …")
    environment = {"LIKENESS_PAYLOAD_SCHEMA": json.dumps(sample_images.SCHEMA)}
    cleared = _cleared(server, data, out) if server else contextlib.nullcontext()
    with cleared, local_service.run(data, 0, environment, server) as service:
        client = Client(service.api_url)
        out.print(f"   the index is {escape(service.index_place)}", soft_wrap=True)
        demo = Demo(client, S3Store(), service.bucket, out)
        items = list(sample_images.from_folder(images) if images else _included())
        out.print(f"[bold]2[/bold]  uploading {len(items)} images to s3://{service.bucket} …")
        items = _usable(items, demo.upload(items), out)
        if not items:
            return False
        checks = _check_searches(demo, items, own_images=images is not None, out=out)
        ready = client.ready()
    page = data / "results.html"
    model = f"{ready['model_name']} {ready['model']}"
    page.write_text(html_report.page(checks, {item.key: item.data for item in items}, model))
    _print_checks(checks, out)
    out.print(f"Results with images: {page}")
    return all(check.ok for check in checks)


def _usable(items: Sequence[Item], summary: uploads.Summary, out: Console) -> list[Item]:
    """The items that are searchable; none if the demo cannot go on."""
    for key, reason in summary.rejected.items():
        out.print(f"   [yellow]rejected[/yellow] {escape(key)}: {escape(reason)}")
    usable = [item for item in items if item.key not in summary.rejected]
    if summary.pending:
        out.print(f"[red]{len(summary.pending)} images never became searchable[/red]")
        return []
    if len(usable) < _MIN_IMAGES:
        out.print(f"[red]{len(usable)} usable images; the demo needs {_MIN_IMAGES} or more[/red]")
        return []
    return usable


def _check_searches(demo: Demo, items: list[Item], own_images: bool, out: Console) -> list[Check]:
    out.print("[bold]3[/bold]  searching with edited copies, over HTTP …")
    queried = items[:: max(1, len(items) // _MAX_QUERIED)]
    checks = demo.search_with_edits(queried)
    if not own_images:
        product = next(item for item in items if item.key == "products/mug-blue.jpg")
        checks += [demo.search_by_id(product), demo.search_with_filter(product)]
    out.print("[bold]4[/bold]  overwriting one object, deleting another, uploading a text file …")
    return [*checks, demo.overwrite(items[0], items[1]), demo.delete(items[-1]), demo.reject()]


def _empty(data: Path) -> None:
    """Remove an earlier demo's data.

    Raises RuntimeError if the folder is in use or not the demo's.
    """
    if running := LocalService.running(data):
        raise RuntimeError(
            f"a service (process {running.pid}) uses the data folder {data}: stop it"
        )
    if data.exists() and any(data.iterdir()) and not (data / LOCK).exists():
        raise RuntimeError(f"{data} is not empty and not the demo's: choose another folder")
    for name in _DEMO_FOLDERS:
        shutil.rmtree(data / name, ignore_errors=True)


@contextlib.contextmanager
def _cleared(server: IndexServer, data: Path, out: Console) -> Iterator[None]:
    """Drop the demo's index on the server: at the end, and first what a killed demo left there."""
    _drop(server, data)
    try:
        yield
    finally:
        try:
            if _drop(server, data):
                out.print(f"Its index at {server.url} was dropped.", soft_wrap=True)
        except ServiceError as error:  # must not hide what ended the demo
            out.print(f"[red]not dropped[/red]  {escape(str(error))}", soft_wrap=True)
            out.print(f"`{escape(server.drop_command(data))}` tries again", soft_wrap=True)


def _drop(server: IndexServer, data: Path) -> list[str]:
    alias = remembered_alias(data)
    if alias is None:
        return []
    with opened(server, alias) as index:
        return index.clear()


def _included() -> list[Item]:
    return [*sample_images.photographs(), *sample_images.products()]


def _ranked(name: str, answer: dict[str, Any], expected: str, query: bytes) -> Check:
    keys = [result["key"] for result in answer["results"]]
    rank = keys.index(expected) + 1 if expected in keys else None
    scores = [result["score"] for result in answer["results"]]
    # an image that was uploaded twice may be found under its other key
    first = rank is not None and abs(scores[0] - scores[rank - 1]) < _SAME_COSINE
    ok = first or (rank is not None and rank <= _MAX_RANK)
    found = f"rank {rank}" if rank else f"{keys[0] if keys else 'nothing'} instead"
    took_ms = answer["took_ms"]["total"]
    return Check(name, ok, found, first, query, answer["results"], expected, took_ms)


def _mirrored(item: Item) -> bytes:
    from PIL import ImageOps  # noqa: PLC0415

    return sample_images.jpeg(ImageOps.mirror(item.image))


def _first_key(results: Sequence[dict[str, Any]]) -> str:
    return str(results[0]["key"]) if results else "nothing"


def _advance(progress: Progress, task: TaskID) -> uploads.Advance:
    return lambda n: progress.advance(task, n)


def _print_checks(checks: Sequence[Check], out: Console) -> None:
    """Print an example of each edit, every copy that is not at rank 1, and the statements."""
    table = Table(
        "", "query", "rank", "first results, with their scores", title="searches with edited copies"
    )
    shown: set[str] = set()
    for check in checks:
        edit = check.name.partition(" ")[2]
        if check.expected and (edit not in shown or not check.first):
            shown.add(edit)
            table.add_row(_mark(check), escape(check.name), escape(check.found), _answers(check))
    out.print(table)
    for check in checks:
        if not check.expected:
            out.print(_mark(check), f"{escape(check.name)} [dim]({escape(check.found)})[/dim]")
    ranked = [check for check in checks if check.expected]
    first, early = sum(c.first for c in ranked), sum(c.ok for c in ranked)
    median_ms = sorted(check.took_ms for check in ranked)[len(ranked) // 2]
    out.print(
        f"[bold]{first} of {len(ranked)} edited copies are found at rank 1[/bold], {early} up to "
        f"rank {_MAX_RANK} (median {median_ms:.1f} ms a search); "
        f"{sum(c.ok for c in checks)} of {len(checks)} checks right"
    )


def _mark(check: Check) -> str:
    return "[green]right[/green]" if check.ok else "[red]wrong[/red]"


def _answers(check: Check) -> str:
    names = [(Path(result["key"]).stem, result["score"]) for result in check.results[:3]]
    return "  ".join(f"{escape(name)} [dim]{score:.2f}[/dim]" for name, score in names)

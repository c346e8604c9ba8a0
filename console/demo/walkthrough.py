"""`likeness demo`: the whole path on real input, with checks of every answer that is known."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
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
from ..client import Client
from ..indexing import uploads
from ..indexing.uploads import pictures
from ..local import runner
from . import sample_images
from .sample_images import Item

_MAX_QUERIED = 24
_SHOWN = 5
_FEWEST = 3
_OWN_FILES = ("aws", "index")
# Two pictures whose cosines differ by less are one picture twice.
_SAME = 1e-3
# Drawn products of one shape differ by a colour, and a phone's photo shifts colours: an edited copy
# is found where it stands among so many first, and the summary tells how many came first of all.
_EARLY = 3


@dataclass(frozen=True)
class Check:
    """One known answer: where the expected key came, or whether a statement held."""

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
            return uploads.wait(self._client, etags, _advance(progress, indexed))

    def search_with_edits(self, items: Sequence[Item]) -> list[Check]:
        checks = []
        for i, item in enumerate(items):
            for edit in list(sample_images.EDITS)[i % 3 :: 3]:
                query = sample_images.edited(item, edit)
                answer = self._client.search_image(query, limit=_SHOWN)
                name = f"{item.key} {edit}"
                checks.append(_ranked(name, answer, item.key, query))
        return checks

    def search_by_id(self, item: Item) -> Check:
        """More like an indexed product: another of its kind comes early, itself never."""
        image_id = ObjectRef(self._bucket, item.key).point_id
        answer = self._client.similar(image_id, limit=_SHOWN)
        keys = [result["key"] for result in answer["results"]]
        kind = item.key.rpartition("-")[0]
        ok = item.key not in keys and any(key.startswith(kind) for key in keys[:3])
        name = f"more like {item.key}, by its id"
        return Check(name, ok, ", ".join(keys[:3]), False, item.data, answer["results"])

    def search_with_filter(self, item: Item) -> Check:
        """The same picture, but only among what is cheaper than a hundred and of its kind."""
        kind = item.metadata["category"]
        wanted = {
            "must": [
                {"key": "category", "match": {"value": kind}},
                {"key": "price", "range": {"lt": 100}},
            ]
        }
        answer = self._client.search_image(item.data, limit=_SHOWN, filter=wanted)
        found = [result["payload"] for result in answer["results"]]
        ok = bool(found) and all(p["category"] == kind and p["price"] < 100 for p in found)
        name = f"{kind} below 100, like {item.key}"
        return Check(name, ok, f"{len(found)} results", False, item.data, answer["results"])

    def overwrite(self, item: Item, other: Item) -> Check:
        """Put another picture under a key: the key is found with the new one, not the old."""
        etag = self._put(item.key, _mirrored(other), item)
        uploads.wait(self._client, {item.key: etag}, lambda n: None)
        new = self._client.search_image(_mirrored(other), limit=1)["results"]
        old = self._client.search_image(item.data, limit=_SHOWN)["results"]
        forgotten = all(r["key"] != item.key or r["score"] < 0.99 for r in old)
        ok = _first(new) == item.key and forgotten
        return Check(f"{item.key} overwritten: found as its new picture", ok, _first(new))

    def delete(self, item: Item) -> Check:
        self._store.delete(ObjectRef(self._bucket, item.key))
        deadline_s = time.monotonic() + 30
        while self._client.status(item.key)["state"] != "gone" and time.monotonic() < deadline_s:
            time.sleep(0.05)
        results = self._client.search_image(item.data, limit=_SHOWN)["results"]
        ok = all(result["key"] != item.key for result in results)
        return Check(f"{item.key} deleted: no longer found", ok, _first(results))

    def reject(self) -> Check:
        etag = self._put("broken/letter.jpg", b"Dear Sir or Madam, this is no picture.")
        summary = uploads.wait(self._client, {"broken/letter.jpg": etag}, lambda n: None)
        reason = summary.rejected.get("broken/letter.jpg", "not rejected")
        return Check("a letter named .jpg is rejected", "not-an-image" in reason, reason)

    def _put(self, key: str, data: bytes, item: Item | None = None) -> str:
        metadata = item.metadata if item else {}
        return uploads.upload(self._store, ObjectRef(self._bucket, key), data, metadata)


def run(images: Path | None, data: Path, out: Console) -> bool:
    """Returns whether every known answer was found."""
    if images:
        found = len(pictures(images))
        if found < _FEWEST:
            raise RuntimeError(f"{images} holds {found} pictures; the demo needs {_FEWEST} or more")
    _begin_anew(data)
    out.print("[bold]1[/bold]  starting a local S3, SQS and both functions …")
    environment = {"LIKENESS_PAYLOAD_SCHEMA": json.dumps(sample_images.SCHEMA)}
    with runner.run(data, 0, environment) as service:
        client = Client(service.api_url)
        demo = Demo(client, S3Store(), service.bucket, out)
        items = list(sample_images.from_folder(images) if images else _bundled())
        out.print(f"[bold]2[/bold]  uploading {len(items)} pictures to s3://{service.bucket} …")
        summary = demo.upload(items)
        for key, reason in summary.rejected.items():
            out.print(f"   [yellow]rejected[/yellow] {escape(key)}: {escape(reason)}")
        items = [item for item in items if item.key not in summary.rejected]
        if summary.pending:
            out.print(f"[red]{len(summary.pending)} pictures never became searchable[/red]")
            return False
        if len(items) < _FEWEST:
            out.print(f"[red]{len(items)} usable pictures; the demo needs {_FEWEST} or more[/red]")
            return False
        out.print("[bold]3[/bold]  searching with edited copies, over HTTP …")
        queried = items[:: max(1, len(items) // _MAX_QUERIED)]
        checks = demo.search_with_edits(queried)
        if not images:
            product = next(item for item in items if item.key == "products/mug-blue.jpg")
            checks += [demo.search_by_id(product), demo.search_with_filter(product)]
        out.print("[bold]4[/bold]  overwriting one object, deleting another, uploading a letter …")
        checks += [
            demo.overwrite(items[0], items[1]),
            demo.delete(items[-1]),
            demo.reject(),
        ]
        model = f"{client.ready()['model_name']} {client.ready()['model']}"
    page = data / "results.html"
    page.write_text(html_report.page(checks, {item.key: item.data for item in items}, model))
    _print(checks, out)
    out.print(f"Look at the pictures: {page}")
    return all(check.ok for check in checks)


def _begin_anew(data: Path) -> None:
    """Raises RuntimeError where the folder is in use, or holds what no service of ours left."""
    if running := runner.LocalService.running(data):
        raise RuntimeError(f"a service (process {running.pid}) keeps its data in {data}: stop it")
    if data.exists() and any(data.iterdir()) and not (data / runner.LOCK).exists():
        raise RuntimeError(f"{data} is not empty and not the demo's: name another folder")
    for name in _OWN_FILES:
        shutil.rmtree(data / name, ignore_errors=True)


def _bundled() -> list[Item]:
    return [*sample_images.photographs(), *sample_images.products()]


def _ranked(name: str, answer: dict[str, Any], expected: str, query: bytes) -> Check:
    keys = [result["key"] for result in answer["results"]]
    rank = keys.index(expected) + 1 if expected in keys else None
    scores = [result["score"] for result in answer["results"]]
    # a picture that was uploaded twice may come under its other name
    first = rank is not None and abs(scores[0] - scores[rank - 1]) < _SAME
    ok = first or (rank is not None and rank <= _EARLY)
    found = f"rank {rank}" if rank else f"{keys[0] if keys else 'nothing'} instead"
    took_ms = answer["took_ms"]["total"]
    return Check(name, ok, found, first, query, answer["results"], expected, took_ms)


def _mirrored(item: Item) -> bytes:
    from PIL import ImageOps  # noqa: PLC0415

    return sample_images.jpeg(ImageOps.mirror(item.image))


def _first(results: Sequence[dict[str, Any]]) -> str:
    return str(results[0]["key"]) if results else "nothing"


def _advance(progress: Progress, task: TaskID) -> uploads.Progress:
    return lambda n: progress.advance(task, n)


def _print(checks: Sequence[Check], out: Console) -> None:
    """One ranked example of each edit, every one that did not come first, and the statements."""
    table = Table(
        "", "query", "rank", "first answers, with their cosines", title="searched and found"
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
        f"[bold]{first} of {len(ranked)} edited copies came first[/bold], {early} among the first "
        f"{_EARLY} (median {median_ms:.1f} ms a search); "
        f"{sum(c.ok for c in checks)} of {len(checks)} checks right"
    )


def _mark(check: Check) -> str:
    return "[green]right[/green]" if check.ok else "[red]wrong[/red]"


def _answers(check: Check) -> str:
    names = [(Path(result["key"]).stem, result["score"]) for result in check.results[:3]]
    return "  ".join(f"{escape(name)} [dim]{score:.2f}[/dim]" for name, score in names)

"""`likeness explain`: one answer in detail, from its line in the log."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..client import ServiceError
from ..local.data_folder import ANSWERS

Line = Mapping[str, Any]

# Why candidates were left out; braces contain names of the query's options.
_WHY = {
    "cutoff": "below the cutoff {cutoff}",
    "group_by": "their group by {group_by} was full",
    "page": "on another page than this one (limit {limit}, offset {offset})",
}
_DEFAULTS = {"limit": 10, "offset": 0}
_REQUEST_ID = re.compile(r"[\w-]{1,64}")


def lines(data: Path, log_group: str | None, request_id: str, days: int) -> list[Line]:
    """All lines about a request, from the local service or a log group.

    Raises ServiceError if there are none, and LikenessError if CloudWatch cannot be read.
    """
    if not _REQUEST_ID.fullmatch(request_id):
        raise ServiceError(f"{request_id!r} is not a valid request_id: take it from an answer")
    if log_group:
        from .log_group import lines_of  # noqa: PLC0415 - boto3 takes a moment

        found = list(lines_of(log_group, request_id, days))
    else:
        found = list(_local_lines(data, request_id))
    if not found:
        where = f"{log_group} in {days} days" if log_group else f"{data / ANSWERS}"
        raise ServiceError(
            f"no line about {request_id} in {where}. A deployed service writes its answers to its "
            "log: --log-group /aws/lambda/STACK-search"
        )
    return found


def _local_lines(data: Path, request_id: str) -> Iterator[Line]:
    file = data / ANSWERS
    for part in (file.with_suffix(".old"), file):
        if part.exists():
            for text in part.read_bytes().splitlines():
                if request_id.encode() in text:
                    line = msgspec.json.decode(text)
                    if line["request_id"] == request_id:
                        yield line


def show(found: Sequence[Line], image: str | None, out: Console) -> None:
    """Print the lines. `image`: the id, or its start, of an image to explain."""
    for line in found:
        match line.get("message"):
            case "answered":
                _show_answer(line, out)
                if image:
                    out.print(f"{image}: {explain_image(line, image)}", soft_wrap=True)
            case "feedback":
                out.print(f"feedback: {line['kind']} on {escape(line['id'])}")
            case other:
                why = line.get("why", "see the log")
                out.print(f"[red]{escape(str(other))}[/red] {escape(str(why))}", soft_wrap=True)


def explain_image(line: Line, image: str) -> str:
    """Whether an image, given by its id or the start of it, was shown, and if not, why."""
    short = image[:8]
    for rank, result in enumerate(line["shown"], 1):
        if result["id"].startswith(short):
            return f"shown at rank {rank}"
    if short in line["more"].split():
        return f"shown at rank {len(line['shown']) + line['more'].split().index(short) + 1}"
    for why, cut in line["cut"].items():
        if short in cut["ids"].split():
            return f"a candidate, left out: {_reason(why, line['options'])}"
    return (
        f"not among the {line['candidates']} candidates: not indexed, left out by the filter, "
        "score_threshold or exclude, or less similar to the query than all of them"
    )


def _show_answer(line: Line, out: Console) -> None:
    at = datetime.fromtimestamp(line["_aws"]["Timestamp"] / 1000, UTC)
    out.print(f"{line['request_id']}  {at:%Y-%m-%d %H:%M:%S} UTC  model {line['model']}")
    query = f"query by {line['source']}"
    if "of" in line:
        query += f" {line['of']}"
    for name, value in line["options"].items():
        query += f", {name} {msgspec.json.encode(value).decode()}"
    out.print(escape(query), soft_wrap=True)
    out.print(f"{line['candidates']} candidates: the nearest that filter and exclude allow")
    out.print(_results(line) if line["shown"] else "no results")
    if line["more"]:
        out.print(f"and {len(line['more'].split())} more")
    for why, cut in line["cut"].items():
        reason = escape(_reason(why, line["options"]))
        out.print(f"left out: {cut['count']}, the best with {cut['best']:.3f}: {reason}")
    if line["skipped"]:
        out.print(
            f"[yellow]skipped because of the deadline: {' and '.join(line['skipped'])}[/yellow]"
        )
    took = "  ".join(f"{name} {ms:.1f}" for name, ms in line["took_ms"].items())
    out.print(f"[dim]milliseconds: {took}[/dim]")


def _results(line: Line) -> Table:
    stages = list(dict.fromkeys(name for result in line["shown"] for name in result["stages"]))
    table = Table("", "id", "score", *stages, "final score", "verdict")
    for rank, result in enumerate(line["shown"], 1):
        scores = [_score(result["stages"].get(name)) for name in stages]
        verdict = result.get("verdict", "")
        if verdict:
            verdict += f" {100 * result['probability']:.0f} %"
        if "rests_on" in result:
            verdict += f", by {result['rests_on']}"
        ordered = _score(result.get("rerank_score"))
        table.add_row(str(rank), result["id"], _score(result["score"]), *scores, ordered, verdict)
    return table


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _reason(why: str, options: Mapping[str, Any]) -> str:
    return _WHY[why].format_map({**_DEFAULTS, **options})

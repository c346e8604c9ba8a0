"""One JSON line for each answer: CloudWatch's metrics, and what `likeness explain` tells from it.

The line is in the embedded metric format (CloudWatch user guide, "Specification: Embedded metric
format"). Powertools writes that too, but importing it takes 9 ms, and it has one set of
dimensions for all of a line's metrics. No bytes, URLs or tokens: a line names a query by its
kind, and results by their ids.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from likeness.answer_shift import EMPTY, UNJUDGED, band
from likeness.feedback import FeedbackEvent
from likeness.search import Answer, ByExamples, ById, ByObject, Hit, Query, Source

SERVICE = "search"
_SHOWN = 10  # results that a line has the scores of
_ID = 8  # characters that tell a hundred ids apart
_MAX_FILTER = 1000  # characters
_STAGES_MS = {"total": "SearchMs", "embed": "EmbedMs", "search": "QdrantMs"}
# What they are counted by, and metrics with their values.
MetricSet = tuple[Sequence[str], Mapping[str, float]]


def answered(
    namespace: str, request_id: str, model: str, query: Query, answer: Answer, cold: bool
) -> bytes:
    """The line of one answer. Only first pages count as empty, good or bad."""
    hits = answer.results or [hit for _, found in answer.regions for hit in found]
    verdict = _verdict(hits)
    metrics: dict[str, float] = {
        name: answer.took_ms[stage] for stage, name in _STAGES_MS.items() if stage in answer.took_ms
    }
    metrics["ColdStart"] = int(cold)
    sets: list[MetricSet] = [(("service",), metrics)]
    if query.offset == 0:
        metrics["EmptyResult"] = int(not hits)
        if hits:
            # CloudWatch has no percentiles of a metric with negative values
            metrics["TopScore"] = max(0.0, round(hits[0].score, 4))
            sets.append((("service", "band"), {"ScoreCount": 1}))
        sets.append((("service", "verdict"), {"VerdictCount": 1}))
    told = {
        "message": "answered",
        "request_id": request_id,
        "model": model,
        "verdict": verdict,
        "band": band(hits[0].score) if hits else None,
        **_asked(query.source),
        "options": _options(query),
        "took_ms": answer.took_ms,
        "skipped": answer.skipped,
        "candidates": answer.candidates,
        "shown": [_shown(hit) for hit in hits[:_SHOWN]],
        "more": _ids(hits[_SHOWN:]),
        "cut": {
            why: {"count": len(left), "best": round(left[0].order, 4), "ids": _ids(left)}
            for why, left in answer.cut.items()
            if left
        },
    }
    return _line(namespace, sets, told)


def opined(namespace: str, opinion: FeedbackEvent) -> bytes:
    """The line of somebody's opinion: clicks over answers are the click-through."""
    told = {
        "message": "feedback",
        "request_id": opinion.request_id,
        "id": opinion.id,
        "kind": opinion.kind,
    }
    return _line(namespace, [(("service", "kind"), {"Feedback": 1})], told)


def _line(
    namespace: str,
    sets: Sequence[MetricSet],
    told: Mapping[str, Any],
) -> bytes:
    directives = [
        {
            "Namespace": namespace,
            "Dimensions": [dimensions],
            "Metrics": [{"Name": name, "Unit": _unit(name)} for name in metrics],
        }
        for dimensions, metrics in sets
    ]
    values = {name: value for _, metrics in sets for name, value in metrics.items()}
    about = {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": directives}
    return msgspec.json.encode({"_aws": about, "service": SERVICE, **values, **told})


def _unit(name: str) -> str:
    if name.endswith("Ms"):
        return "Milliseconds"
    return "None" if name == "TopScore" else "Count"


def _verdict(hits: Sequence[Hit]) -> str:
    if not hits:
        return EMPTY
    return hits[0].proof.verdict.level.value if hits[0].proof else UNJUDGED


def _asked(source: Source) -> dict[str, Any]:
    """What kind of query it was, and what it named that is no secret of the caller's."""
    named: dict[str, Any] = {}
    match source:
        case ById(point_id):
            named = {"of": point_id}
        case ByObject(ref):
            named = {"of": ref.key}
        case ByExamples(positive, negative):
            named = {"of": {"positive": positive, "negative": negative}}
    return {"source": type(source).__name__.removeprefix("By").lower(), **named}


def _options(query: Query) -> dict[str, Any]:
    """Those that differ from what they are by themselves."""
    usual = Query(query.source)
    given = {
        name: value
        for name in Query.__struct_fields__
        if name != "source" and (value := getattr(query, name)) != getattr(usual, name)
    }
    if query.exclude:
        given["exclude"] = len(query.exclude)
    filter = msgspec.json.encode(query.filter)
    if len(filter) > _MAX_FILTER:
        given["filter"] = f"{len(filter)} bytes"
    return given


def _shown(hit: Hit) -> dict[str, Any]:
    scores = {name: round(score, 4) for name, score in hit.stages.items()}
    told: dict[str, Any] = {"id": hit.point.id, "score": round(hit.score, 4), "stages": scores}
    if hit.rerank_score is not None:
        told["rerank_score"] = round(hit.rerank_score, 4)
    if hit.proof:
        verdict = hit.proof.verdict
        told |= {"verdict": verdict.level.value, "probability": round(verdict.probability, 4)}
    return told


def _ids(hits: Iterable[Hit]) -> str:
    return " ".join(hit.point.id[:_ID] for hit in hits)

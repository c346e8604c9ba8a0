"""One JSON line for each answer: CloudWatch metrics, and the facts that `likeness explain` shows.

The line is in the embedded metric format (CloudWatch user guide, "Specification: Embedded metric
format"). Powertools writes that too, but importing it takes 9 ms, and it supports only one set of
dimensions per line. The line has no image bytes, URLs or tokens: it names the kind of query, and
results by their ids.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from likeness.answer_shift import EMPTY, UNJUDGED, band
from likeness.feedback import FeedbackEvent
from likeness.proof.verdicts import Basis
from likeness.queries import Answer, ByExamples, ById, ByObject, Hit, Query, Source

SERVICE = "search"
_SCORED = 10  # results listed with their scores
_ID_LENGTH = 8  # characters that distinguish a hundred ids
_MAX_FILTER_LENGTH = 1000
_STAGES_MS = {"total": "SearchMs", "embed": "EmbedMs", "search": "QdrantMs"}
# Dimensions, and metrics with their values.
MetricSet = tuple[Sequence[str], Mapping[str, float]]


def answer_line(
    namespace: str, request_id: str, model: str, query: Query, answer: Answer, cold: bool
) -> bytes:
    """The line about one answer. Only first pages count in the metrics of quality."""
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
            # CloudWatch computes no percentiles for a metric with negative values
            metrics["TopScore"] = max(0.0, round(hits[0].score, 4))
            sets.append((("service", "band"), {"ScoreCount": 1}))
        sets.append((("service", "verdict"), {"VerdictCount": 1}))
    fields = {
        "message": "answered",
        "request_id": request_id,
        "model": model,
        "verdict": verdict,
        "band": band(hits[0].score) if hits else None,
        **_source(query.source),
        "options": _options(query),
        "took_ms": answer.took_ms,
        "skipped": answer.skipped,
        "candidates": answer.candidates,
        "shown": [_result(hit) for hit in hits[:_SCORED]],
        "more": _ids(hits[_SCORED:]),
        "cut": {
            step: {"count": len(cut), "best": round(cut[0].order, 4), "ids": _ids(cut)}
            for step, cut in answer.cut.items()
            if cut
        },
    }
    return _line(namespace, sets, fields)


def feedback_line(namespace: str, event: FeedbackEvent) -> bytes:
    """The line about one feedback event. Clicks per answer are the click-through rate."""
    fields = {
        "message": "feedback",
        "request_id": event.request_id,
        "id": event.id,
        "kind": event.kind,
    }
    return _line(namespace, [(("service", "kind"), {"Feedback": 1})], fields)


def _line(
    namespace: str,
    sets: Sequence[MetricSet],
    fields: Mapping[str, Any],
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
    metadata = {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": directives}
    return msgspec.json.encode({"_aws": metadata, "service": SERVICE, **values, **fields})


def _unit(name: str) -> str:
    if name.endswith("Ms"):
        return "Milliseconds"
    return "None" if name == "TopScore" else "Count"


def _verdict(hits: Sequence[Hit]) -> str:
    if not hits:
        return EMPTY
    return hits[0].proof.verdict.level.value if hits[0].proof else UNJUDGED


def _source(source: Source) -> dict[str, Any]:
    """The kind of source, and the ids or the key that it names."""
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
    """The options that differ from their defaults."""
    default = Query(query.source)
    given = {
        name: value
        for name in Query.__struct_fields__
        if name != "source" and (value := getattr(query, name)) != getattr(default, name)
    }
    if query.exclude:
        given["exclude"] = len(query.exclude)
    filter = msgspec.json.encode(query.filter)
    if len(filter) > _MAX_FILTER_LENGTH:
        given["filter"] = f"{len(filter)} bytes"
    return given


def _result(hit: Hit) -> dict[str, Any]:
    scores = {name: round(score, 4) for name, score in hit.stages.items()}
    result: dict[str, Any] = {"id": hit.point.id, "score": round(hit.score, 4), "stages": scores}
    if hit.rerank_score is not None:
        result["rerank_score"] = round(hit.rerank_score, 4)
    if hit.proof:
        verdict = hit.proof.verdict
        result |= {"verdict": verdict.level.value, "probability": round(verdict.probability, 4)}
        if hit.proof.rests_on is not Basis.INDEX:  # as most do
            result["rests_on"] = hit.proof.rests_on.value
    return result


def _ids(hits: Iterable[Hit]) -> str:
    return " ".join(hit.point.id[:_ID_LENGTH] for hit in hits)

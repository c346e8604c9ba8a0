"""Answers out: values of the library → the schemas of the API, as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import msgspec
from starlette.responses import Response

from likeness.duplicates import Group
from likeness.proof.proofs import Proof
from likeness.proof.verdicts import Basis
from likeness.queries import Answer, Comparison, Hit
from likeness.records import Box, DuplicateMatch, ObjectRef, Point, Relation, State

from . import schemas, search_schemas

Presign = Callable[[ObjectRef], str]


def json_response(value: msgspec.Struct, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def search_answer(
    answer: Answer,
    options: search_schemas.SearchOptions,
    request_id: str,
    model: str,
    cold_start: bool,
    presign: Presign,
) -> search_schemas.SearchAnswer:
    """`presign` makes the download URLs that `with_url` asks for."""

    def results(hits: list[Hit]) -> list[search_schemas.Result]:
        return [_result(hit, options, presign) for hit in hits]

    return search_schemas.SearchAnswer(
        request_id=request_id,
        model=model,
        took_ms={**answer.took_ms, "cold_start": cold_start},
        query_id=answer.query_id,
        box=_sides(answer.box),
        results=results(answer.results),
        next_offset=answer.next_offset,
        skipped=list(answer.skipped),
        regions=[
            search_schemas.Region(box=_sides(box), results=results(hits))
            for box, hits in answer.regions
        ],
    )


def comparison(request_id: str, model: str, compared: Comparison) -> search_schemas.Comparison:
    answer = search_schemas.Comparison(
        request_id=request_id,
        model=model,
        score=round(compared.cosine, 6),
        notes=list(compared.notes),
    )
    if proof := compared.proof:
        _add_verdict(answer, proof)
        scores = {"cosine": compared.cosine, "geometry": proof.geometry}
        answer.explain = _explanation(proof, scores)
    return answer


def image(point: Point) -> schemas.Image:
    return schemas.Image(
        id=point.id,
        key=point.ref.key,
        state="live" if point.state is State.LIVE else "rejected",
        model=point.model,
        indexed_at=_timestamp(point.indexed_at_s),
        payload=_payload(point),
        reason=point.reason or msgspec.UNSET,
        detail=point.detail or msgspec.UNSET,
    )


def status(ref: ObjectRef, point: Point | None) -> schemas.Status:
    if point is None:
        return schemas.Status(id=ref.point_id, key=ref.key, state="absent")
    indexed = point.object
    return schemas.Status(
        id=ref.point_id,
        key=ref.key,
        state=point.state.value,
        model=point.model,
        indexed_at=_timestamp(point.indexed_at_s),
        etag=indexed.etag if indexed else msgspec.UNSET,
        version_id=(indexed.version_id if indexed else None) or msgspec.UNSET,
        reason=point.reason or msgspec.UNSET,
        detail=point.detail or msgspec.UNSET,
    )


def status_url(ref: ObjectRef) -> str:
    return f"/v1/status?{urlencode({'key': ref.key})}"


def duplicate_group(group: Group, relation: Relation) -> schemas.DuplicateGroup:
    members = [*([group.original] if group.original else []), *group.copies]
    # of two images, the one that was indexed last names the other
    named = {match.id: match for point in members for match in point.matches(relation)}

    def copy(point: Point) -> schemas.Member:
        closest = next(iter(point.matches(relation)), named.get(point.id))
        return _member(point, closest)

    return schemas.DuplicateGroup(
        id=group.id,
        original=_member(group.original) if group.original else None,
        copies=[copy(point) for point in group.copies],
        more=group.more,
    )


def _member(point: Point, match: DuplicateMatch | None = None) -> schemas.Member:
    member = schemas.Member(id=point.id, key=point.ref.key)
    if match:
        member.verdict, member.probability = match.verdict, match.probability
    return member


def _result(
    hit: Hit, options: search_schemas.SearchOptions, presign: Presign
) -> search_schemas.Result:
    point = hit.point
    result = search_schemas.Result(id=point.id, key=point.ref.key, score=round(hit.score, 6))
    if hit.rerank_score is not None:
        result.rerank_score = round(hit.rerank_score, 6)
    if hit.proof:
        _add_verdict(result, hit.proof)
        if options.explain:
            result.explain = _explanation(hit.proof, hit.stages)
    if options.with_payload:
        result.payload = _payload(point)
    if options.group_by:
        result.group = hit.group
    if options.with_url:
        result.url = presign(point.ref)
    return result


def _add_verdict(answer: search_schemas.Result | search_schemas.Comparison, proof: Proof) -> None:
    answer.verdict, answer.rests_on = proof.verdict.level.value, proof.rests_on.value
    answer.probability = round(proof.verdict.probability, 4)
    pixels = None if proof.rests_on is Basis.BYTES else proof.pixels  # equal files have no edits
    edits: Any = [edit.value for edit in pixels.edits] if pixels else []
    answer.edits = edits


def _explanation(proof: Proof, scores: Mapping[str, float]) -> search_schemas.Explanation:
    matches = []
    if proof.boxes:
        query, target = proof.boxes
        matches.append(search_schemas.Match(query=_sides(query), target=_sides(target)))
    explanation = search_schemas.Explanation(
        inliers=proof.inliers,
        overlap_query=round(100 * proof.overlap_query, 1),
        overlap_target=round(100 * proof.overlap_target, 1),
        matches=matches,
        scores={name: round(score, 6) for name, score in scores.items()},
    )
    if pixels := proof.pixels:
        explanation.transform = [float(f"{value:.6g}") for value in pixels.transform]
        explanation.agreeing = round(100 * pixels.agreeing, 1)
        explanation.differences = [
            search_schemas.Difference(query=_sides(query), target=_sides(target))
            for query, target in pixels.differences
        ]
    return explanation


def _payload(point: Point) -> dict[str, Any]:
    """Declared metadata, and the image facts that filters may name."""
    payload = dict(point.meta)
    if point.image:
        payload |= {"width": point.image.width, "height": point.image.height}
    if point.object:
        payload |= {"size": point.object.size, "content_type": point.object.content_type}
    return payload


def _sides(box: Box) -> search_schemas.Sides:
    return round(box.left, 4), round(box.top, 4), round(box.right, 4), round(box.bottom, 4)


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")

"""Who may write, and whom a request is from: only the gateway's context counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.requests import Request

from functions.search import access, openapi
from likeness.errors import NotAWriter, NoTenant
from likeness.settings import Settings
from tests.gateway import Gateway
from tests.pictures import jpeg, png
from tests.service import FIXED_FILTERS, Service

KEYS = Settings("file:///unused", FIXED_FILTERS, write_keys=("writer", "next"))
GROUP = Settings("file:///unused", FIXED_FILTERS, write_group="curators")
UPLOAD = {"content_type": "image/jpeg"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("index"), write_keys=("writer",)) as service:
        service.fill({"a.png": png(1), "bad.png": b"no picture"})
        service.fill({"again.jpg": jpeg(1)})
        yield service


@pytest.fixture(scope="module")
def gateway(service: Service) -> Gateway:
    return Gateway(service.app)


def decision(service: Service) -> dict[str, Any]:
    [group] = service.http.get("/v1/duplicates").json()["groups"]
    return {"group": group["id"], "id": service.id("again.jpg"), "decision": "not_duplicate"}


def writes(service: Service) -> list[tuple[str, str, Any, int]]:
    """Each call that changes something, and its status when it is permitted."""
    return [
        ("POST", "/v1/uploads", UPLOAD, 201),
        ("POST", "/v1/duplicates/decisions", decision(service), 200),
        ("DELETE", f"/v1/images/{service.id('again.jpg')}", None, 202),
    ]


def test_the_write_key_is_needed_to_write_and_only_to_write(
    service: Service, gateway: Gateway
) -> None:
    calls = writes(service)
    assert {(method, path) for method, path, _, _ in calls} == {
        (o.method, o.path.replace("{id}", service.id("again.jpg")))
        for o in openapi.OPERATIONS
        if o.scope == "write"
    }
    for key in ("searcher", None, "", "writer "):
        for method, path, body, _ in calls:
            status, answer = gateway.call(method, path, body, identity={"apiKeyId": key})
            assert (status, answer["type"]) == (403, "urn:likeness:problem:not-a-writer")
            assert "write key" in answer["detail"]
    assert service.bucket.head(service.bucket.ref("again.jpg"))
    for method, path, body, good in calls:
        status, _ = gateway.call(method, path, body, identity={"apiKeyId": "writer"})
        assert status == good
    for key in ("searcher", "writer"):
        assert gateway.call("GET", "/v1/ready", identity={"apiKeyId": key})[0] == 200
        said = {"request_id": "r", "id": service.id("a.png"), "kind": "click"}
        assert gateway.call("POST", "/v1/feedback", said, identity={"apiKeyId": key})[0] == 200


def test_nothing_that_a_caller_sends_makes_it_a_writer(gateway: Gateway) -> None:
    headers = {"x-api-key": "writer", "apiKeyId": "writer", "x-amzn-request-context": "{}"}
    status, _ = gateway.call("POST", "/v1/uploads", UPLOAD, headers=headers)
    assert status == 403
    body = {**UPLOAD, "identity": {"apiKeyId": "writer"}}
    assert gateway.call("POST", "/v1/uploads", body)[0] == 403


def test_a_service_without_keys_accepts_writes(tmp_path: Any) -> None:
    with Service(tmp_path) as service:
        assert service.http.post("/v1/uploads", json=UPLOAD).status_code == 201


def test_a_deleted_image_is_gone_from_bucket_and_index(service: Service, gateway: Gateway) -> None:
    service.fill({"mine.png": png(7)})
    point = service.id("mine.png")
    writer = {"apiKeyId": "writer"}
    status, answer = gateway.call("DELETE", f"/v1/images/{point}", identity=writer)
    assert status == 202
    assert answer == {"id": point, "key": "mine.png", "status_url": "/v1/status?key=mine.png"}
    assert service.bucket.head(service.bucket.ref("mine.png")) is None
    service._reconcile()
    assert service.http.get(answer["status_url"]).json()["state"] == "gone"
    status, answer = gateway.call("DELETE", f"/v1/images/{point}", identity=writer)
    assert (status, answer["type"]) == (404, "urn:likeness:problem:not-indexed")


def test_a_rejected_image_can_be_deleted_too(service: Service, gateway: Gateway) -> None:
    path = f"/v1/images/{service.id('bad.png')}"
    assert gateway.call("DELETE", path, identity={"apiKeyId": "writer"})[0] == 202
    assert service.bucket.head(service.bucket.ref("bad.png")) is None


@pytest.mark.parametrize("key", ["writer", "next"])
def test_while_a_key_is_rotated_both_may_write(key: str) -> None:
    access.check_writer({"identity": {"apiKeyId": key}}, KEYS)


@pytest.mark.parametrize(
    "groups",
    ["curators", "readers,curators", "[readers curators]", "[curators]", ["readers", "curators"]],
    ids=str,
)
def test_a_token_of_the_group_may_write(groups: Any) -> None:
    access.check_writer({"authorizer": {"claims": {"cognito:groups": groups}}}, GROUP)


@pytest.mark.parametrize(
    "authorizer",
    [
        None,
        {},
        {"claims": None},
        {"claims": {}},
        {"claims": {"cognito:groups": ""}},
        {"claims": {"cognito:groups": "curators-of-old"}},
        {"claims": {"cognito:groups": "[readers curators-of-old]"}},
        {"claims": {"groups": "curators"}},
        {"cognito:groups": "curators"},
    ],
    ids=str,
)
def test_a_token_of_other_groups_or_none_may_not_write(authorizer: Any) -> None:
    with pytest.raises(NotAWriter, match="curators"):
        access.check_writer({"authorizer": authorizer}, GROUP)


@pytest.mark.parametrize(
    ("context", "claim"),
    [
        ({"authorizer": {"claims": {"custom:tenant": "acme"}}}, "custom:tenant"),
        ({"authorizer": {"tenant": "acme", "principalId": "p"}}, "tenant"),
        ({"identity": {"accountId": "acme"}}, "accountId"),
    ],
    ids=["JWT", "Lambda", "IAM"],
)
def test_each_authorizer_names_the_tenant_in_its_own_way(context: Any, claim: str) -> None:
    assert access.tenant_of(context, claim) == "acme"


@pytest.mark.parametrize(
    ("context", "claim"),
    [
        ({}, "tenant"),
        ({"authorizer": None, "identity": None}, "tenant"),
        ({"authorizer": "acme"}, "tenant"),
        ({"authorizer": {"claims": "acme"}}, "tenant"),
        ({"authorizer": {"claims": {"sub": "1"}, "tenant": "acme"}}, "tenant"),
        ({"identity": {"userAgent": "acme"}}, "userAgent"),
        ({"identity": {"tenant": "acme"}}, "tenant"),
        ({"authorizer": {"claims": {"sub": "1"}}, "identity": {"user": "acme"}}, "user"),
        *(
            ({"authorizer": {"claims": {"tenant": name}}}, "tenant")
            for name in (None, "", 7, ["acme"], "a/b", "..", "a b", "a\n", "é", "x" * 129)
        ),
    ],
    ids=ascii,
)
def test_a_caller_without_a_tenant_is_refused(context: Any, claim: str) -> None:
    with pytest.raises(NoTenant, match=claim):
        access.tenant_of(context, claim)


def test_without_a_gateway_there_is_no_context() -> None:
    assert access.context_of(Request({"type": "http"})) == {}

"""The real template, deployed by SAM into a local AWS, and used as callers use it.

MiniStack emulates AWS over TLS and enforces IAM: each function has only its own role's permissions,
and the policies that require TLS are in force. `make e2e` builds the deployed artifacts.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import boto3
import pytest
import urllib3
from botocore.exceptions import ClientError
from cfnlint.decode import cfn_yaml
from PIL import Image

from tests import indexes
from tests.indexes import IndexAddress
from tests.pictures import jpeg, png

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
BUILD = ROOT / ".aws-sam" / "e2e"
REGION = "eu-west-1"
QDRANT_KEY = "a-key-of-the-test"


@dataclass(frozen=True)
class Aws:
    """A running MiniStack. `env` makes SDKs use it, and nothing else."""

    port: int
    env: dict[str, str]

    @property
    def certificate(self) -> str:
        return self.env["AWS_CA_BUNDLE"]

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.env["AWS_ENDPOINT_URL"],
            verify=self.certificate,
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
        )


@dataclass(frozen=True)
class Answer:
    status: int
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Service:
    """The deployed stack: its bucket, and its HTTP API with one of its API keys or none."""

    def __init__(self, aws: Aws, outputs: dict[str, str]) -> None:
        self.aws = aws
        self.bucket = outputs["BucketName"]
        self.check = outputs["CheckFunctionName"]
        self.s3 = aws.client("s3")
        found = re.fullmatch(r"https://([^.]+)\.[^/]+(/.+)", outputs["ApiUrl"])
        assert found
        self._host = f"{found[1]}.execute-api.localhost:{aws.port}"
        self._base = f"https://127.0.0.1:{aws.port}{found[2]}"
        gateway = aws.client("apigateway")
        self._keys = {
            kind: gateway.get_api_key(apiKey=outputs[f"{kind}KeyId"], includeValue=True)["value"]
            for kind in ("Search", "Write")
            if f"{kind}KeyId" in outputs
        }
        self.http = urllib3.PoolManager(ca_certs=aws.certificate, retries=False)

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        kind: str = "",
        key: str = "Search",
        token: str = "",
    ) -> Answer:
        headers = {"Host": self._host}
        if token:
            headers["Authorization"] = token
        elif key and self._keys:
            headers["x-api-key"] = self._keys[key]
        if kind:
            headers["content-type"] = kind
        answer = self.http.request(method, self._base + path, body=body, headers=headers)
        return Answer(answer.status, answer.data.decode())

    def browse(self, path: str, key: str = "", accept: str = "*/*") -> Any:
        """The response with headers and bytes, as a browser gets it."""
        headers = {"Host": self._host, "accept": accept}
        if key:
            headers["x-api-key"] = self._keys[key]
        return self.http.request("GET", self._base + path, headers=headers)

    def search(self, **fields: Any) -> Answer:
        return self.call("POST", "/v1/search", json.dumps(fields).encode(), "application/json")

    def request_upload(self, key: str = "Write", **fields: Any) -> Answer:
        return self.call(
            "POST", "/v1/uploads", json.dumps(fields).encode(), "application/json", key
        )

    def put(self, key: str, data: bytes, kind: str = "image/jpeg") -> None:
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=data, ContentType=kind)

    def wait_for(self, key: str, state: str) -> Any:
        """Wait until the key's status has this state; returns the status."""

        def status() -> Any:
            return self.call("GET", f"/v1/status?{urlencode({'key': key})}").json

        return eventually(status, lambda answer: answer.get("state") == state)


def eventually(ask: Callable[[], Any], good: Callable[[Any], bool], within_s: float = 60) -> Any:
    deadline_s = time.monotonic() + within_s
    while not good(answer := ask()):
        assert time.monotonic() < deadline_s, f"still {answer}"
        time.sleep(0.3)
    return answer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(*command: str, env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose group is killed at the end: MiniStack's includes the functions' workers."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=env, cwd=ROOT, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(f"--- {log.name} ---", log.read_text()[-20_000:], sep="\n")


@pytest.fixture(scope="module")
def qdrant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IndexAddress]:
    """An index at TEST_QDRANT_URL, or else on a test server that requires QDRANT_KEY."""
    if indexes.SERVER_URL:
        yield indexes.on_server()
        return
    log = tmp_path_factory.mktemp("qdrant") / "qdrant.log"
    script = str(ROOT / "tests" / "qdrant_server.py")
    options = ["--port", "0", "--api-key", QDRANT_KEY]
    with running(sys.executable, script, *options, env=dict(os.environ), log=log):
        url = eventually(log.read_text, lambda text: text.endswith("\n")).strip()
        yield IndexAddress(url, api_key=QDRANT_KEY)


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    home = tmp_path_factory.mktemp("aws")
    port = free_port()
    certificate, private_key = home / "server.crt", home / "server.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", private_key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(home),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": f"https://127.0.0.1:{port}",
        "AWS_CA_BUNDLE": str(certificate),
    }
    settings = {
        "AUTH": "true",
        "USE_SSL": "1",
        "GATEWAY_PORT": str(port),
        "MINISTACK_REGION": REGION,
        "STATE_DIR": str(home / "state"),
        # MiniStack does not unpack layers in /opt; the functions inherit this variable.
        "LIKENESS_MODEL_DIR": str(BUILD / "ModelLayer" / "model"),
    }
    command = [
        str(ROOT / ".venv-ministack" / "bin" / "python"),
        str(Path(__file__).with_name("local_aws.py")),
        f"--port={port}",
        f"--certificate={certificate}",
        f"--private-key={private_key}",
    ]
    health_url = f"{env['AWS_ENDPOINT_URL']}/_ministack/health"
    http = urllib3.PoolManager(ca_certs=str(certificate), retries=False)
    with running(*command, env=env | settings, log=home / "ministack.log") as process:

        def healthy() -> bool:
            assert process.poll() is None, "MiniStack has terminated"
            try:
                return http.request("GET", health_url).status == 200
            except urllib3.exceptions.HTTPError:
                return False

        eventually(healthy, bool)
        yield Aws(port, env)


@pytest.fixture(scope="module")
def service(aws: Aws, qdrant: IndexAddress) -> Iterator[Service]:
    with deployed(aws, "likeness-e2e", qdrant) as service:
        yield service


@contextlib.contextmanager
def deployed(aws: Aws, stack: str, qdrant: IndexAddress, **parameters: str) -> Iterator[Service]:
    assert BUILD.is_dir(), "not built: run `make e2e`"
    parameters |= {
        "QdrantUrl": qdrant.url,
        "QdrantApiKey": qdrant.api_key or "none",
        "IndexAlias": qdrant.alias,
    }
    subprocess.run(
        [ROOT / ".venv-sam" / "bin" / "sam", "deploy", "--stack-name", stack,
         "--template-file", BUILD / "template.yaml", "--resolve-s3", "--no-progressbar",
         "--no-confirm-changeset", "--capabilities", "CAPABILITY_IAM", "--parameter-overrides",
         *(f"{name}={text}" for name, text in parameters.items()),
         """PayloadSchema='{"shop":"keyword"}'"""],
        cwd=aws.env["HOME"], env={**aws.env, "SAM_CLI_TELEMETRY": "0"}, check=True,
    )  # fmt: skip
    [found] = aws.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}
    yield Service(aws, outputs)
    logs = aws.client("logs")
    for name in ("canary", "index", "search", "drift", "feed", "check"):
        events = logs.filter_log_events(logGroupName=f"/aws/lambda/{stack}-{name}")["events"]
        print(f"--- {name} ---", *(event["message"] for event in events[-200:]), sep="\n")


def test_an_uploaded_image_is_found_by_a_photo_of_it(service: Service) -> None:
    for seed in range(3):
        service.put(f"shelf {seed}+é.jpg", jpeg(seed))
    for seed in range(3):
        service.wait_for(f"shelf {seed}+é.jpg", "live")
    answer = service.call("POST", "/v1/search?limit=2", jpeg(1, quality=60), "image/jpeg")
    assert answer.status == 200, answer.text
    best, second = answer.json["results"]
    assert best["key"] == "shelf 1+é.jpg"
    assert best["score"] > 0.99 > second["score"]


def test_a_form_and_a_json_query_find_an_image(service: Service) -> None:
    service.put("form.png", png(10), "image/png")
    service.wait_for("form.png", "live")
    body, kind = urllib3.encode_multipart_formdata(
        {"image": ("photo.png", png(10), "image/png"), "limit": "1"}
    )
    by_form = service.call("POST", "/v1/search", body, kind)
    assert by_form.status == 200, by_form.text
    assert [result["key"] for result in by_form.json["results"]] == ["form.png"]
    by_key = service.search(key="form.png", limit=1)
    assert by_key.status == 200, by_key.text
    assert "form.png" not in [result["key"] for result in by_key.json["results"]]


def test_a_query_by_a_missing_key_is_answered_with_404(service: Service) -> None:
    service.put("there.jpg", jpeg(20))
    service.wait_for("there.jpg", "live")
    assert service.search(key="there.jpg").status == 200
    assert service.search(key="not there.jpg").status == 404


def test_a_result_is_downloaded_by_its_url(service: Service) -> None:
    service.put("download.jpg", jpeg(30))
    service.wait_for("download.jpg", "live")
    answer = service.call("POST", "/v1/search?limit=1&with_url=true", jpeg(30), "image/jpeg")
    url = answer.json["results"][0]["url"]
    assert service.http.request("GET", url).data == jpeg(30)


def test_a_browser_gets_the_page_without_a_key(service: Service) -> None:
    html = service.browse("/")
    assert html.status == 200
    assert html.headers["content-type"].startswith("text/html")
    assert "connect-src 'self' https://" in html.headers["content-security-policy"]
    files = re.findall(r"""["']\./(page/[^"']+)["']""", html.data.decode())
    assert files
    for path in files:
        file = service.browse(f"/{path}")
        assert file.status == 200
        assert "immutable" in file.headers["cache-control"]
    assert service.browse("/v1/config").status == 403
    assert service.browse("/v1/config", "Search").status == 200


def test_a_thumbnail_arrives_as_bytes(service: Service) -> None:
    service.put("large.jpg", jpeg(35, 640, 480))
    point = service.wait_for("large.jpg", "live")["id"]
    small = service.browse(f"/v1/images/{point}/thumbnail?size=160", "Search", "image/jpeg")
    assert (small.status, small.headers["content-type"]) == (200, "image/jpeg")
    assert Image.open(io.BytesIO(small.data)).size == (160, 120)


def test_cors_allows_only_form_uploads_to_the_bucket(service: Service) -> None:
    url = f"{service.aws.env['AWS_ENDPOINT_URL']}/{service.bucket}"

    def preflight(method: str) -> Any:
        headers = {"origin": "https://page.test", "access-control-request-method": method}
        return service.http.request("OPTIONS", url, headers=headers)

    assert preflight("POST").headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-origin" not in preflight("GET").headers
    assert "access-control-allow-origin" not in preflight("PUT").headers


def test_a_file_that_is_no_image_is_rejected_with_a_reason(service: Service) -> None:
    service.put("note.jpg", b"not an image at all")
    assert service.wait_for("note.jpg", "rejected")["reason"] == "not-an-image"


def test_a_deleted_image_is_no_longer_found(service: Service) -> None:
    service.put("short-lived.jpg", jpeg(40))
    service.wait_for("short-lived.jpg", "live")
    service.s3.delete_object(Bucket=service.bucket, Key="short-lived.jpg")
    service.wait_for("short-lived.jpg", "gone")
    answer = service.call("POST", "/v1/search?limit=100", jpeg(40), "image/jpeg")
    assert "short-lived.jpg" not in [result["key"] for result in answer.json["results"]]


def test_an_image_uploaded_by_a_form_becomes_searchable(service: Service) -> None:
    answer = service.request_upload(
        content_type="image/png", name="mine.png", metadata={"shop": "north"}
    )
    assert answer.status == 201, answer.text
    ticket = answer.json
    form = {**ticket["fields"], "file": ("mine.png", png(50), "image/png")}
    body, kind = urllib3.encode_multipart_formdata(form)
    sent = service.http.request("POST", ticket["url"], body=body, headers={"content-type": kind})
    assert sent.status == 204, sent.data
    service.wait_for(ticket["key"], "live")
    north = {"must": [{"key": "shop", "match": {"value": "north"}}]}
    assert ticket["key"].startswith("uploads/")
    query = urlencode({"filter": json.dumps(north)})
    answer = service.call("POST", f"/v1/search?{query}", png(50), "image/png")
    assert [result["id"] for result in answer.json["results"]] == [ticket["id"]]


def test_a_changed_upload_form_is_refused(service: Service) -> None:
    ticket = service.request_upload(content_type="image/png").json
    form = {**ticket["fields"], "key": "elsewhere.png", "file": ("x.png", png(60), "image/png")}
    body, kind = urllib3.encode_multipart_formdata(form)
    sent = service.http.request("POST", ticket["url"], body=body, headers={"content-type": kind})
    assert sent.status == 403


def test_the_drift_function_finds_an_object_whose_event_was_lost(service: Service) -> None:
    lambdas = service.aws.client("lambda")
    names = [f["FunctionName"] for f in lambdas.list_functions()["Functions"]]
    [name] = [name for name in names if name.startswith("likeness-e2e-DriftFunction")]
    settings = lambdas.get_function_configuration(FunctionName=name)["Environment"]
    settings["Variables"]["LIKENESS_EVENT_LAG_S"] = "0.001"
    lambdas.update_function_configuration(FunctionName=name, Environment=settings)
    notification = service.s3.get_bucket_notification_configuration(Bucket=service.bucket)
    notification.pop("ResponseMetadata")
    service.s3.put_bucket_notification_configuration(
        Bucket=service.bucket, NotificationConfiguration={}
    )
    service.put("lost-event.jpg", jpeg(80))
    service.s3.put_bucket_notification_configuration(
        Bucket=service.bucket, NotificationConfiguration=notification
    )
    answer = lambdas.invoke(FunctionName=name, Payload=b"{}")
    report = json.loads(answer["Payload"].read())
    assert (report["missing"], report["finished"]) == (1, True), report
    service.wait_for("lost-event.jpg", "live")


def test_the_state_machine_sends_hints_from_the_bucket_listing(service: Service) -> None:
    states = service.aws.client("stepfunctions")
    [machine] = states.list_state_machines()["stateMachines"]
    described = states.describe_state_machine(stateMachineArn=machine["stateMachineArn"])
    definition = json.loads(described["definition"])
    assert definition["States"]["Listing"]["ItemReader"]["Resource"].startswith("arn:aws:states")
    feed = definition["States"]["Listing"]["ItemProcessor"]["States"]["Feed"]["Resource"]
    lambdas = service.aws.client("lambda")
    batch = json.dumps({"BatchInput": {"all": False}, "Items": [{"Key": "a.jpg", "Size": 1}]})
    answer = lambdas.invoke(FunctionName=feed, Payload=batch.encode())
    assert json.loads(answer["Payload"].read()) == {"sent": 1, "skipped": 0}


def test_a_request_without_the_api_key_is_refused(service: Service) -> None:
    assert service.call("GET", "/v1/health", key="").status == 403
    assert service.call("GET", "/v1/health").status == 200
    assert service.call("GET", "/v1/health", key="Write").status == 200


def test_only_the_write_key_deletes_and_uploads(service: Service) -> None:
    service.put("unwanted.jpg", jpeg(80))
    image = f"/v1/images/{service.wait_for('unwanted.jpg', 'live')['id']}"
    assert service.call("DELETE", image, key="Search").json["type"].endswith(":not-a-writer")
    refused = service.request_upload("Search", content_type="image/png")
    assert (refused.status, "write key" in refused.json["detail"]) == (403, True)
    assert service.call("GET", image).status == 200
    deleted = service.call("DELETE", image, key="Write")
    assert deleted.status == 202, deleted.text
    service.wait_for("unwanted.jpg", "gone")
    assert service.call("GET", image).status == 404


def test_the_service_is_ready(service: Service) -> None:
    service.put("first.jpg", jpeg(70))
    service.wait_for("first.jpg", "live")
    answer = service.call("GET", "/v1/ready")
    assert (answer.status, answer.json["status"]) == (200, "ok")


def test_the_pre_traffic_check_passes_for_the_new_versions(service: Service) -> None:
    """Its role may invoke these two versions. Invoked directly, as MiniStack has no CodeDeploy."""
    service.put("before.jpg", jpeg(80))
    service.wait_for("before.jpg", "live")
    functions = service.aws.client("lambda")
    answer = functions.invoke(FunctionName=service.check, Payload=b"{}")
    assert json.loads(answer["Payload"].read()) == {"passed": True, "why": ""}
    deployed = functions.get_function_configuration(FunctionName=service.check)
    versions = deployed["Environment"]["Variables"]
    for name in ("LIKENESS_SEARCH_VERSION", "LIKENESS_INDEX_VERSION"):
        assert re.fullmatch(r"arn:aws:lambda:.+:\d+", versions[name])


def test_the_bucket_and_the_queues_refuse_a_request_without_tls(service: Service) -> None:
    clients = administrator(service.aws)
    s3, sqs = clients("s3"), clients("sqs")
    queues = service.aws.client("sqs").list_queues()["QueueUrls"]
    requests = [
        lambda: s3.list_objects_v2(Bucket=service.bucket),
        *(lambda url=url: sqs.get_queue_attributes(QueueUrl=url) for url in queues),
    ]
    assert len(requests) == 3
    for request in requests:
        request()

    def forward_as_http(request: Any, **_: Any) -> None:
        request.headers["x-forwarded-proto"] = "http"  # MiniStack trusts this header

    for client in (s3, sqs):
        client.meta.events.register("before-sign", forward_as_http)
    for request in requests:
        with pytest.raises(ClientError, match="AccessDenied"):
            request()


class Pool:
    """A Cognito user pool whose users have tenants; the group `writers` may write."""

    def __init__(self, aws: Aws) -> None:
        self._cognito = aws.client("cognito-idp")
        schema = [{"Name": "tenant", "AttributeDataType": "String", "Mutable": True}]
        pool = self._cognito.create_user_pool(PoolName="people", Schema=schema)["UserPool"]
        self.arn, self._id = pool["Arn"], pool["Id"]
        client = self._cognito.create_user_pool_client(
            UserPoolId=self._id,
            ClientName="tests",
            ExplicitAuthFlows=["ALLOW_ADMIN_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"],
        )
        self._client = client["UserPoolClient"]["ClientId"]
        self._cognito.create_group(UserPoolId=self._id, GroupName="writers")

    def token(self, name: str, tenant: str = "", writes: bool = False) -> str:
        """The ID token of a new user."""
        user = {"UserPoolId": self._id, "Username": name}
        attributes = [{"Name": "custom:tenant", "Value": tenant}] if tenant else []
        self._cognito.admin_create_user(**user, UserAttributes=attributes)
        password = "Correct-horse-7"
        self._cognito.admin_set_user_password(**user, Password=password, Permanent=True)
        if writes:
            self._cognito.admin_add_user_to_group(**user, GroupName="writers")
        answer = self._cognito.admin_initiate_auth(
            UserPoolId=self._id,
            ClientId=self._client,
            AuthFlow="ADMIN_USER_PASSWORD_AUTH",
            AuthParameters={"USERNAME": name, "PASSWORD": password},
        )
        token: str = answer["AuthenticationResult"]["IdToken"]
        return token


def test_tokens_separate_tenants_and_writers(aws: Aws, qdrant: IndexAddress) -> None:
    pool = Pool(aws)
    acme, other = pool.token("ann", "acme", writes=True), pool.token("ola", "other")
    without_tenant = pool.token("nora")
    cognito = {"AuthMode": "Cognito", "UserPoolArn": pool.arn, "TenantClaim": "custom:tenant"}
    index = replace(qdrant, alias=f"{qdrant.alias}-tenants")
    with deployed(aws, "likeness-tenants", index, **cognito) as service:
        assert service.call("GET", "/v1/health").status == 401
        assert (
            service.call("GET", "/v1/ready", token=without_tenant)
            .json["type"]
            .endswith(":no-tenant")
        )
        fields = json.dumps({"content_type": "image/png"}).encode()
        upload = ("POST", "/v1/uploads", fields, "application/json")
        assert service.call(*upload, token=other).json["type"].endswith(":not-a-writer")
        answer = service.call(*upload, token=acme)
        assert answer.status == 201, answer.text
        ticket = answer.json
        assert ticket["key"].startswith("acme/uploads/")
        form = {**ticket["fields"], "file": ("mine.png", png(90), "image/png")}
        body, kind = urllib3.encode_multipart_formdata(form)
        headers = {"content-type": kind}
        sent = service.http.request("POST", ticket["url"], body=body, headers=headers)
        assert sent.status == 204, sent.data
        service.put("other/1.png", png(90), "image/png")

        def found(token: str) -> list[str]:
            answer = service.call("POST", "/v1/search?limit=100", png(90), "image/png", token=token)
            return [result["key"] for result in answer.json.get("results", [])]

        assert eventually(lambda: found(acme), bool) == [ticket["key"]]
        assert eventually(lambda: found(other), bool) == ["other/1.png"]
        image = f"/v1/images/{ticket['id']}"
        assert service.call("GET", image, token=other).status == 404
        assert service.call("GET", image, token=acme).status == 200


def administrator(aws: Aws) -> Callable[[str], Any]:
    """Clients of a user with all permissions: MiniStack applies no policies to its root user."""
    iam = aws.client("iam")
    iam.create_user(UserName="administrator")
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [everything]})
    iam.put_user_policy(UserName="administrator", PolicyName="all", PolicyDocument=policy)
    key = iam.create_access_key(UserName="administrator")["AccessKey"]
    secrets = {
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }
    return Aws(aws.port, aws.env | secrets).client


def test_the_canary_finds_images_with_only_its_own_role(service: Service) -> None:
    for seed in (90, 91):
        service.put(f"canary/{seed}.jpg", jpeg(seed))
        service.wait_for(f"canary/{seed}.jpg", "live")
    functions = service.aws.client("lambda")
    names = [function["FunctionName"] for function in functions.list_functions()["Functions"]]
    [name] = [name for name in names if name.startswith("likeness-e2e-CanaryFunction")]
    answer = functions.invoke(FunctionName=name, Qualifier="live")
    report = json.loads(answer["Payload"].read())
    assert "FunctionError" not in answer, report
    assert report["asked"] >= 2 and report["recall"] > 0.9


def test_alarms_and_the_dashboard_are_deployed(service: Service) -> None:
    cloudwatch = service.aws.client("cloudwatch")
    alarms = cloudwatch.describe_alarms()["MetricAlarms"]
    assert {"likeness-e2e-dead-letters", "likeness-e2e-canary-recall"} <= {
        alarm["AlarmName"] for alarm in alarms
    }
    assert all(alarm["AlarmActions"] for alarm in alarms)
    body = cloudwatch.get_dashboard(DashboardName="likeness-e2e")["DashboardBody"]
    assert "${" not in body and json.loads(body)["widgets"]


@pytest.mark.parametrize("name", ["canary", "index", "search", "drift", "feed", "check"])
def test_its_layers_contain_all_that_a_function_imports(name: str) -> None:
    function = f"{name.capitalize()}Function"
    template = cfn_yaml.load(str(BUILD / "template.yaml"))
    own = template["Resources"][function]["Properties"].get("Layers", [])
    layers = [*template["Globals"]["Function"]["Layers"], *own]
    folders = [BUILD / layer["Ref"] / "python" for layer in layers if "Ref" in layer]
    paths = [*folders, BUILD / function]
    code = f"import sys; sys.path[:0] = {list(map(str, paths))}; import functions.{name}.app"
    python = ROOT / ".venv-ministack" / "bin" / "python"
    env = {
        "QDRANT_URL": "http://127.0.0.1:1",
        "LIKENESS_MODEL_DIR": str(BUILD / "ModelLayer" / "model"),
        "AWS_DEFAULT_REGION": REGION,
    }
    subprocess.run([python, "-I", "-S", "-c", code], env=env, check=True)

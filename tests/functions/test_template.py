"""What template.yaml promises: least privilege, nothing lost, nothing readable by others."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cfnlint.api import ManualArgs, lint_file
from cfnlint.decode import cfn_yaml

from console.packaging import NEXT_MODEL
from likeness.adapters.qdrant import Layout
from likeness.filters import Schema
from likeness.settings import Settings

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "template.yaml"
FUNCTIONS = ("IndexFunction", "SearchFunction", "DriftFunction", "FeedFunction")
QUEUES = ("Queue", "DeadLetterQueue")
# X-Ray knows no resources for its two actions.
WITHOUT_RESOURCES = {"xray:PutTraceSegments", "xray:PutTelemetryRecords"}


@pytest.fixture(scope="module")
def template() -> Any:
    return cfn_yaml.load(str(TEMPLATE))


def properties(template: Any, name: str) -> Any:
    """A resource's own properties, over those that Globals gives every function."""
    resource = template["Resources"][name]
    shared = {}
    if resource["Type"] == "AWS::Serverless::Function":
        shared = template["Globals"]["Function"]
    return {**shared, **resource["Properties"]}


def environment(template: Any, name: str) -> dict[str, Any]:
    shared = template["Globals"]["Function"]["Environment"]["Variables"]
    return {**shared, **properties(template, name)["Environment"]["Variables"]}


def of_type(template: Any, kind: str) -> list[str]:
    return [name for name, found in template["Resources"].items() if found["Type"] == kind]


def statements(node: Any) -> Iterator[Any]:
    """Every policy statement at or below a node."""
    if isinstance(node, dict):
        if "Effect" in node:
            yield node
        for child in node.values():
            yield from statements(child)
    elif isinstance(node, list):
        for child in node:
            yield from statements(child)


def texts(node: Any) -> Iterator[str]:
    """Every text at or below a node: the actions of a list with an If in it, say."""
    if isinstance(node, str):
        yield node
    else:
        for child in node.values() if isinstance(node, dict) else node:
            yield from texts(child)


def allowed(template: Any) -> list[Any]:
    found = [s for s in statements(template["Resources"]) if s["Effect"] == "Allow"]
    assert found
    return found


def refused_without_tls(template: Any, policy: str) -> Any:
    """The resources that a policy denies everything on without TLS."""
    [denied] = [s for s in statements(template["Resources"][policy]) if s["Effect"] == "Deny"]
    assert denied["Principal"] == "*"
    assert denied["Action"] in {"s3:*", "sqs:*"}
    assert denied["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    return denied["Resource"]


def test_cfn_lint_finds_nothing_in_the_template() -> None:
    assert lint_file(TEMPLATE, ManualArgs(regions=["us-east-1", "eu-west-1"])) == []


def test_no_policy_allows_a_wildcard_action(template: Any) -> None:
    for statement in allowed(template):
        assert not [text for text in texts(statement["Action"]) if "*" in text]


def test_only_tracing_is_allowed_on_every_resource(template: Any) -> None:
    for statement in allowed(template):
        if "*" in list(texts(statement.get("Resource", []))):
            assert set(texts(statement["Action"])) == WITHOUT_RESOURCES


def test_each_function_has_a_role_of_its_own_without_managed_policies(template: Any) -> None:
    functions = of_type(template, "AWS::Serverless::Function")
    roles = [properties(template, name)["Role"]["Fn::GetAtt"] for name in functions]
    assert roles == [[name.replace("Function", "Role"), "Arn"] for name in functions]
    for role in of_type(template, "AWS::IAM::Role"):
        assert "ManagedPolicyArns" not in properties(template, role)


def test_the_index_function_cannot_write_to_the_bucket(template: Any) -> None:
    actions = set(texts([s["Action"] for s in statements(template["Resources"]["IndexRole"])]))
    assert {action for action in actions if action.startswith("s3:Put")} == set()
    assert {action for action in actions if action.startswith("s3:Delete")} == set()


def test_the_search_function_puts_only_under_the_upload_prefix(template: Any) -> None:
    [put] = [
        statement
        for statement in statements(template["Resources"]["SearchRole"])
        if "s3:PutObject" in list(texts(statement["Action"]))
    ]
    assert put["Resource"] == {"Fn::Sub": "${Bucket.Arn}/${Prefix}${UploadPrefix}*"}
    prefix = environment(template, "SearchFunction")["LIKENESS_UPLOAD_PREFIX"]
    assert prefix == {"Fn::Sub": "${Prefix}${UploadPrefix}"}


def test_the_index_function_may_tell_just_the_bus_that_it_is_given(template: Any) -> None:
    policy = template["Resources"]["IndexRole"]["Properties"]["Policies"][0]["PolicyDocument"]
    [(condition, tell, otherwise)] = [s["Fn::If"] for s in policy["Statement"] if "Fn::If" in s]
    assert otherwise == {"Ref": "AWS::NoValue"}
    assert template["Conditions"][condition] == is_given("EventBus")
    assert tell["Action"] == "events:PutEvents"
    here = "arn:${AWS::Partition}:events:${AWS::Region}:${AWS::AccountId}"
    assert tell["Resource"] == {"Fn::Sub": here + ":event-bus/${EventBus}"}
    assert environment(template, "IndexFunction")["LIKENESS_EVENT_BUS"] == {"Ref": "EventBus"}


def is_given(parameter: str) -> Any:
    return {"Fn::Not": [{"Fn::Equals": [{"Ref": parameter}, ""]}]}


@pytest.mark.parametrize(
    ("bus", "taken"),
    [
        ("", True),
        ("default", True),
        ("aws.partner/example.com/x_1", True),
        ("arn:aws:events:eu-west-1:123456789012:event-bus/photos", False),
        ("*", False),
        ("photos *", False),
    ],
)
def test_a_bus_is_named_without_wildcards(template: Any, bus: str, taken: bool) -> None:
    pattern = template["Parameters"]["EventBus"]["AllowedPattern"]
    assert bool(re.fullmatch(pattern, bus)) is taken


def test_what_is_optional_is_off_by_itself(template: Any) -> None:
    names = ("ReadTags", "KeepPatches", "ImageUrlHosts", "EventBus")
    defaults = [template["Parameters"][name]["Default"] for name in names]
    assert defaults == ["false", "false", "", ""]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_all_functions_agree_on_what_the_index_keeps(template: Any, name: str) -> None:
    variables = environment(template, name)
    assert variables["LIKENESS_KEEP_PATCHES"] == {"Ref": "KeepPatches"}
    assert variables["LIKENESS_PAYLOAD_SCHEMA"] == {"Ref": "PayloadSchema"}


def test_only_the_search_function_fetches_from_other_hosts(template: Any) -> None:
    hosts = "LIKENESS_IMAGE_URL_HOSTS"
    assert environment(template, "SearchFunction")[hosts] == {"Ref": "ImageUrlHosts"}
    assert hosts not in environment(template, "IndexFunction")


def test_who_gives_the_search_function_a_key_is_told_what_it_must_write(template: Any) -> None:
    told = template["Parameters"]["QdrantReadOnlyApiKey"]["Description"]
    assert Layout("images", Schema()).notes in told


def test_the_queue_waits_six_function_timeouts(template: Any) -> None:
    batching_s = properties(template, "IndexFunction")["Events"]["Queue"]["Properties"][
        "MaximumBatchingWindowInSeconds"
    ]
    timeout_s = properties(template, "IndexFunction")["Timeout"]
    assert properties(template, "Queue")["VisibilityTimeout"] >= 6 * timeout_s + batching_s


def test_the_search_function_ends_before_the_gateway_gives_up(template: Any) -> None:
    assert properties(template, "SearchFunction")["Timeout"] < 29


def test_a_message_is_tried_five_times_before_it_is_set_aside(template: Any) -> None:
    redrive = properties(template, "Queue")["RedrivePolicy"]
    assert redrive["maxReceiveCount"] >= 5
    assert redrive["deadLetterTargetArn"] == {"Fn::GetAtt": ["DeadLetterQueue", "Arn"]}


def test_messages_are_kept_four_days_and_set_aside_ones_fourteen(template: Any) -> None:
    day_s = 24 * 60 * 60
    kept_s = [properties(template, name)["MessageRetentionPeriod"] for name in QUEUES]
    assert kept_s == [4 * day_s, 14 * day_s]


def test_a_failed_image_does_not_take_its_batch_along(template: Any) -> None:
    source = properties(template, "IndexFunction")["Events"]["Queue"]["Properties"]
    assert source["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert source["ScalingConfig"]["MaximumConcurrency"] == {"Ref": "IndexConcurrency"}


def test_every_way_an_object_comes_or_goes_is_notified(template: Any) -> None:
    notified = properties(template, "Bucket")["NotificationConfiguration"]["QueueConfigurations"]
    assert {entry["Event"] for entry in notified} == {
        "s3:ObjectCreated:*",
        "s3:ObjectRemoved:*",
        "s3:LifecycleExpiration:*",
    }
    assert all(entry["Queue"] == {"Fn::GetAtt": ["Queue", "Arn"]} for entry in notified)


def test_only_this_bucket_of_this_account_sends_to_the_queue(template: Any) -> None:
    [send] = [s for s in statements(template["Resources"]["QueuePolicy"]) if "Sid" in s][:1]
    assert send["Action"] == "sqs:SendMessage"
    source = send["Condition"]["ArnEquals"]["aws:SourceArn"]["Fn::Sub"]
    name = properties(template, "Bucket")["BucketName"]["Fn::Sub"]
    assert source == "arn:${AWS::Partition}:s3:::" + name
    assert send["Condition"]["StringEquals"]["aws:SourceAccount"] == {"Ref": "AWS::AccountId"}


def test_the_bucket_is_private_encrypted_and_versioned(template: Any) -> None:
    bucket = properties(template, "Bucket")
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    assert bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}


def test_the_queues_are_encrypted(template: Any) -> None:
    assert all(properties(template, name)["SqsManagedSseEnabled"] for name in QUEUES)


def test_the_bucket_and_the_queues_are_reached_over_tls_only(template: Any) -> None:
    bucket = {"Fn::GetAtt": ["Bucket", "Arn"]}
    assert refused_without_tls(template, "BucketPolicy") == [bucket, {"Fn::Sub": "${Bucket.Arn}/*"}]
    for queue in QUEUES:
        refused = refused_without_tls(template, f"{queue}Policy")
        assert refused == {"Fn::GetAtt": [queue, "Arn"]}


def test_the_stack_does_not_delete_the_images(template: Any) -> None:
    bucket = template["Resources"]["Bucket"]
    assert bucket["DeletionPolicy"] == "RetainExceptOnCreate"
    assert bucket["UpdateReplacePolicy"] == "Retain"


def test_logs_do_not_stay_forever(template: Any) -> None:
    groups = of_type(template, "AWS::Logs::LogGroup")
    assert all(properties(template, name)["RetentionInDays"] for name in groups)
    functions = of_type(template, "AWS::Serverless::Function")
    used = [properties(template, name)["LoggingConfig"]["LogGroup"]["Ref"] for name in functions]
    assert sorted(used) == sorted(groups)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_restored_from_a_snapshot_behind_its_alias(template: Any, name: str) -> None:
    function = properties(template, name)
    assert function["SnapStart"] == {"ApplyOn": "PublishedVersions"}
    assert function["AutoPublishAlias"] == "live"
    assert function["AutoPublishAliasAllProperties"] is True


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_handler_is_found_under_its_dotted_name(template: Any, name: str) -> None:
    function = properties(template, name)
    module, _, attribute = function["Handler"].rpartition(".")
    spec = importlib.util.find_spec(module)
    assert spec and spec.origin
    file = Path(spec.origin)
    assert file.parent == ROOT / function["CodeUri"]
    named = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Name)]
    assert attribute in {node.id for node in named if isinstance(node.ctx, ast.Store)}
    build = template["Resources"][name]["Metadata"]["BuildProperties"]
    assert build == {"ParentPackageMode": "auto"}


class Recorded(dict[str, str]):
    """An environment that remembers which variables were asked for."""

    def __init__(self, env: dict[str, str]) -> None:
        super().__init__(env)
        self.asked: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        return super().__getitem__(name)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_variable_of_a_function_is_one_that_the_settings_read(
    template: Any, name: str
) -> None:
    variables = environment(template, name)
    env = Recorded({"QDRANT_URL": "http://qdrant"})
    Settings.from_env(env)
    assert variables.keys() - {"OPENBLAS_NUM_THREADS"} <= env.asked  # numpy reads that one
    # the feed function knows the queue alone
    assert name == "FeedFunction" or "QDRANT_API_KEY_SECRET_ARN" in variables


def test_no_key_stands_in_a_variable_or_an_output(template: Any) -> None:
    shown = [environment(template, name) for name in FUNCTIONS] + [template["Outputs"]]
    secret = {name for name, found in template["Parameters"].items() if found.get("NoEcho")}
    assert secret == {"QdrantApiKey", "QdrantReadOnlyApiKey"}
    assert not secret & set(texts(shown))


def test_images_and_forms_reach_the_search_function_as_bytes(template: Any) -> None:
    types = properties(template, "SearchApi")["BinaryMediaTypes"]
    assert {"image~1*", "multipart~1form-data", "application~1octet-stream"} <= set(types)
    assert "application~1json" not in types


def test_a_request_needs_an_api_key_with_a_rate(template: Any) -> None:
    auth = properties(template, "SearchApi")["Auth"]
    assert auth["ApiKeyRequired"] is True
    assert auth["UsagePlan"]["Throttle"].keys() == {"RateLimit", "BurstLimit"}
    assert all("Auth" not in event["Properties"] for event in events(template))


def test_every_path_goes_to_the_search_function(template: Any) -> None:
    routes = {(e["Properties"]["Method"], e["Properties"]["Path"]) for e in events(template)}
    assert routes == {("ANY", "/"), ("ANY", "/{proxy+}")}


def events(template: Any) -> list[Any]:
    return list(properties(template, "SearchFunction")["Events"].values())


def test_the_bundle_of_a_migration_is_where_both_functions_look_for_it(template: Any) -> None:
    layer = {"Fn::If": ["HasNextModel", {"Ref": "NextModelLayerArn"}, {"Ref": "AWS::NoValue"}]}
    for name in FUNCTIONS:
        assert properties(template, name)["Layers"][-1] == layer
        told = environment(template, name)["LIKENESS_NEXT_MODEL_DIR"]
        assert told == {"Fn::If": ["HasNextModel", f"/opt/{NEXT_MODEL}", ""]}


@pytest.mark.parametrize(
    ("arn", "fits"),
    [
        ("", True),
        ("arn:aws:lambda:eu-west-1:123456789012:layer:next-model:7", True),
        ("arn:aws-cn:lambda:cn-north-1:123456789012:layer:next:1", True),
        ("arn:aws:lambda:eu-west-1:123456789012:layer:next-model", False),
        ("dinov2-small", False),
    ],
)
def test_the_parameter_takes_a_layer_version_or_nothing(
    template: Any, arn: str, fits: bool
) -> None:
    pattern = template["Parameters"]["NextModelLayerArn"]["AllowedPattern"]
    assert bool(re.fullmatch(pattern, arn)) is fits

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

from console.bundles.publishing import NEXT_MODEL
from functions.search import openapi
from likeness.adapters.qdrant_layout import Layout
from likeness.filters import Schema
from likeness.settings import Settings

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "template.yaml"
FUNCTIONS = (
    "CanaryFunction", "CheckFunction", "IndexFunction", "SearchFunction", "DriftFunction",
    "FeedFunction",
)  # fmt: skip
QUEUES = ("Queue", "DeadLetterQueue")
# AWS knows no resources for these actions.
TRACING = {"xray:PutTraceSegments", "xray:PutTelemetryRecords"}
WITHOUT_RESOURCES = TRACING | {"cloudwatch:GetMetricData"}


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


def layers(template: Any, name: str) -> list[Any]:
    """Of a function: SAM adds its own to those that Globals gives every function."""
    own = template["Resources"][name]["Properties"].get("Layers", [])
    return [*template["Globals"]["Function"]["Layers"], *own]


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


def test_only_what_knows_no_resources_is_allowed_on_all_of_them(template: Any) -> None:
    for statement in allowed(template):
        if "*" in list(texts(statement.get("Resource", []))):
            assert set(texts(statement["Action"])) <= WITHOUT_RESOURCES


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
    own = "${Bucket.Arn}/${Prefix}*/${UploadPrefix}*"  # in the folder of whichever tenant
    anywhere = "${Bucket.Arn}/${Prefix}${UploadPrefix}*"
    assert put["Resource"] == {"Fn::If": ["HasTenants", {"Fn::Sub": own}, {"Fn::Sub": anywhere}]}
    prefix = environment(template, "SearchFunction")["LIKENESS_UPLOAD_PREFIX"]
    assert prefix == {"Fn::Sub": "${Prefix}${UploadPrefix}"}


def test_the_search_function_deletes_images_and_not_their_versions(template: Any) -> None:
    deletes = [
        statement
        for statement in statements(template["Resources"]["SearchRole"])
        if any("Delete" in action for action in texts(statement["Action"]))
    ]
    assert [statement["Action"] for statement in deletes] == ["s3:DeleteObject"]
    assert deletes[0]["Resource"] == {"Fn::Sub": "${Bucket.Arn}/${Prefix}*"}


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
    return {"Fn::Not": [equals(parameter, "")]}


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


def test_the_canary_writes_nothing_and_reads_what_the_search_function_reads(template: Any) -> None:
    def may(role: str) -> set[str]:
        return set(texts([s["Action"] for s in statements(template["Resources"][role])]))

    assert may("CanaryRole") - may("SearchRole") == {"cloudwatch:GetMetricData"}
    assert not [action for action in may("CanaryRole") if action.startswith("s3:Put")]


def test_only_what_writes_points_gets_the_key_that_may_write_them(template: Any) -> None:
    write = {"Fn::GetAtt": ["QdrantSecret", "Id"]}
    read = {"Fn::If": ["HasReadOnlyKey", {"Fn::GetAtt": ["QdrantReadOnlySecret", "Id"]}, write]}
    for name in FUNCTIONS:
        key = environment(template, name).get("QDRANT_API_KEY_SECRET_ARN")
        role = template["Resources"][name.replace("Function", "Role")]
        may_read = [
            statement["Resource"]
            for statement in statements(role)
            if "secretsmanager:GetSecretValue" in list(texts(statement["Action"]))
        ]
        assert may_read == ([key] if key else [])
        if key:
            assert key == (write if name in ("IndexFunction", "DriftFunction") else read)


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


def test_every_bucket_is_private_and_encrypted(template: Any) -> None:
    assert of_type(template, "AWS::S3::Bucket")
    for name in of_type(template, "AWS::S3::Bucket"):
        bucket = properties(template, name)
        assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
        assert len(bucket["PublicAccessBlockConfiguration"]) == 4
        assert bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]


def test_the_bucket_keeps_what_is_deleted_for_a_month(template: Any) -> None:
    bucket = properties(template, "Bucket")
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    [kept] = [r for r in bucket["LifecycleConfiguration"]["Rules"] if r["Id"] == "old-versions"]
    assert kept["NoncurrentVersionExpiration"]["NoncurrentDays"] == 30


def test_every_queue_is_encrypted(template: Any) -> None:
    """The topic of the alarms is not: CloudWatch cannot publish under SNS's own key."""
    for name in of_type(template, "AWS::SQS::Queue"):
        assert properties(template, name)["SqsManagedSseEnabled"] is True


def test_every_bucket_and_every_queue_is_reached_over_tls_only(template: Any) -> None:
    closed = []
    for kind in ("AWS::S3::BucketPolicy", "AWS::SQS::QueuePolicy"):
        for policy in of_type(template, kind):
            refused = refused_without_tls(template, policy)
            closed += refused if isinstance(refused, list) else [refused]
    for name in of_type(template, "AWS::SQS::Queue"):
        assert {"Fn::GetAtt": [name, "Arn"]} in closed
    for name in of_type(template, "AWS::S3::Bucket"):
        assert {"Fn::GetAtt": [name, "Arn"]} in closed
        assert {"Fn::Sub": f"${{{name}.Arn}}/*"} in closed


def test_every_dead_letter_queue_outlives_its_queue_and_has_an_alarm(template: Any) -> None:
    redrives = {
        name: properties(template, name)["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][0]
        for name in of_type(template, "AWS::SQS::Queue")
        if "RedrivePolicy" in properties(template, name)
    }
    assert redrives
    watched = [
        dimension["Value"]["Fn::GetAtt"][0]
        for alarm in of_type(template, "AWS::CloudWatch::Alarm")
        for dimension in properties(template, alarm).get("Dimensions", [])
        if dimension["Name"] == "QueueName"
    ]
    for name, target in redrives.items():
        assert target in watched
        kept = [properties(template, queue)["MessageRetentionPeriod"] for queue in (name, target)]
        assert kept[1] > kept[0]


def test_every_function_that_a_queue_feeds_has_six_timeouts_to_finish(template: Any) -> None:
    fed = 0
    for name in of_type(template, "AWS::Serverless::Function"):
        for event in properties(template, name).get("Events", {}).values():
            if event["Type"] == "SQS":
                [queue, _] = event["Properties"]["Queue"]["Fn::GetAtt"]
                batching_s = event["Properties"].get("MaximumBatchingWindowInSeconds", 0)
                needed_s = 6 * properties(template, name)["Timeout"] + batching_s
                assert properties(template, queue)["VisibilityTimeout"] >= needed_s
                fed += 1
    assert fed


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


@pytest.mark.parametrize("name", ["IndexFunction", "SearchFunction"])
def test_a_function_that_is_waited_for_is_restored_from_a_snapshot(
    template: Any, name: str
) -> None:
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


def test_just_the_functions_that_open_the_index_for_writing_have_the_clients_layer(
    template: Any,
) -> None:
    for name in of_type(template, "AWS::Serverless::Function"):
        folder = ROOT / properties(template, name)["CodeUri"]
        imported = {
            alias.name
            for file in folder.rglob("*.py")
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module == "likeness.adapters.index"
            for alias in node.names
        }
        has_client = {"Ref": "QdrantClientLayer"} in layers(template, name)
        assert has_client is ("open_index" in imported), name


def test_no_function_has_more_layers_than_the_five_that_lambda_allows(template: Any) -> None:
    for name in of_type(template, "AWS::Serverless::Function"):
        assert len(layers(template, name)) <= 5


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


def test_each_auth_mode_asks_for_its_own_on_every_path_but_the_pages(template: Any) -> None:
    definition = properties(template, "SearchApi")["DefinitionBody"]
    assert template["Conditions"]["TakesKeys"] == equals("AuthMode", "ApiKey")
    assert template["Conditions"]["TakesTokens"] == equals("AuthMode", "Cognito")
    asked = {"Fn::If": ["TakesTokens", {"token": []}, {"signature": []}]}
    security = {
        (path, method): operation["security"]
        for path, operations in definition["paths"].items()
        for method, operation in operations.items()
    }
    assert security == {
        ("/{proxy+}", "x-amazon-apigateway-any-method"): [
            {"Fn::If": ["TakesKeys", {"api_key": []}, asked]}
        ],
        ("/", "get"): [],
        ("/page/{name}", "get"): [],
    }
    schemes = definition["components"]["securitySchemes"]
    assert schemes["api_key"] == {"type": "apiKey", "name": "x-api-key", "in": "header"}
    assert schemes["signature"]["x-amazon-apigateway-authtype"] == "awsSigv4"
    condition, token, otherwise = schemes["token"]["Fn::If"]
    assert (condition, otherwise) == ("TakesTokens", {"Ref": "AWS::NoValue"})
    assert token["x-amazon-apigateway-authorizer"] == {
        "type": "cognito_user_pools",
        "providerARNs": [{"Ref": "UserPoolArn"}],
    }
    # a gateway serves the last deployment: another mode must make one
    assert properties(template, "SearchApi")["AlwaysDeploy"] is True


def test_searching_and_writing_have_keys_of_their_own_each_with_a_rate(template: Any) -> None:
    assert properties(template, "UsagePlan")["Throttle"].keys() == {"RateLimit", "BurstLimit"}
    assert set(of_type(template, "AWS::ApiGateway::ApiKey")) == {"SearchKey", "WriteKey"}
    planned = [properties(template, n) for n in of_type(template, "AWS::ApiGateway::UsagePlanKey")]
    assert [entry["KeyId"] for entry in planned] == [{"Ref": "SearchKey"}, {"Ref": "WriteKey"}]
    assert all(entry["UsagePlanId"] == {"Ref": "UsagePlan"} for entry in planned)
    variables = environment(template, "SearchFunction")
    given = {"Fn::Sub": "${WriteKey},${WriteKeyIds}"}
    assert variables["LIKENESS_WRITE_KEY_IDS"] == {"Fn::If": ["TakesKeys", given, ""]}
    group = {"Fn::If": ["TakesTokens", {"Ref": "WriteGroup"}, ""]}
    assert variables["LIKENESS_WRITE_GROUP"] == group


@pytest.mark.parametrize("name", FUNCTIONS)
def test_both_functions_agree_on_who_the_tenants_are(template: Any, name: str) -> None:
    assert template["Parameters"]["TenantClaim"]["Default"] == ""
    variables = environment(template, name)
    assert variables["LIKENESS_TENANT_CLAIM"] == {"Ref": "TenantClaim"}
    assert variables["LIKENESS_PREFIX"] == {"Ref": "Prefix"}


def test_a_stack_without_a_pool_or_with_tenants_by_key_is_refused(template: Any) -> None:
    rules = template["Rules"].values()
    checked = [(rule["RuleCondition"], rule["Assertions"][0]["Assert"]) for rule in rules]
    assert checked == [
        (equals("AuthMode", "Cognito"), is_given("UserPoolArn")),
        (equals("AuthMode", "ApiKey"), equals("TenantClaim", "")),
    ]


def equals(parameter: str, value: str) -> Any:
    return {"Fn::Equals": [{"Ref": parameter}, value]}


def test_every_path_goes_to_the_search_function(template: Any) -> None:
    routes = {(e["Properties"]["Method"], e["Properties"]["Path"]) for e in events(template)}
    assert routes == {("ANY", "/"), ("ANY", "/{proxy+}")}
    integrations = [
        operation["x-amazon-apigateway-integration"]
        for path in properties(template, "SearchApi")["DefinitionBody"]["paths"].values()
        for operation in path.values()
    ]
    assert all(integration == integrations[0] for integration in integrations)
    assert {"Ref": "SearchFunction.Alias"} in integrations[0]["uri"]["Fn::Sub"][1].values()


def test_what_needs_no_key_is_only_read_and_is_throttled_all_the_same(template: Any) -> None:
    throttled = {
        (method["HttpMethod"].lower(), method["ResourcePath"])
        for method in properties(template, "SearchApi")["MethodSettings"]
        if method.keys() >= {"ThrottlingRateLimit", "ThrottlingBurstLimit"}
    }
    # a slash is ~1 but at the start (CloudFormation guide, "Stage MethodSetting")
    assert throttled == {
        (method, "/" if path == "/" else "/" + path.replace("/", "~1"))
        for path, operations in properties(template, "SearchApi")["DefinitionBody"]["paths"].items()
        for method, operation in operations.items()
        if not operation["security"]
    }


def test_browsers_may_only_post_to_the_bucket(template: Any) -> None:
    [rule] = properties(template, "Bucket")["CorsConfiguration"]["CorsRules"]
    assert rule["AllowedMethods"] == ["POST"]
    assert rule["AllowedOrigins"] == {"Ref": "PageOrigins"}
    assert template["Parameters"]["PageOrigins"]["Default"] == "*"


def test_thumbnails_leave_the_gateway_as_bytes(template: Any) -> None:
    [media_type] = [o.answer for o in openapi.OPERATIONS if isinstance(o.answer, str)]
    types = properties(template, "SearchApi")["BinaryMediaTypes"]
    assert media_type.replace("/", "~1") in types


def events(template: Any) -> list[Any]:
    return list(properties(template, "SearchFunction")["Events"].values())


def test_the_bundle_of_a_migration_is_where_both_functions_look_for_it(template: Any) -> None:
    layer = {"Fn::If": ["HasNextModel", {"Ref": "NextModelLayerArn"}, {"Ref": "AWS::NoValue"}]}
    for name in FUNCTIONS:
        assert layer in layers(template, name)
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

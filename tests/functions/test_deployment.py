"""How template.yaml and samconfig.toml shift traffic to a new version, and roll back."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from cfnlint.decode import cfn_yaml

from functions.check.handler import Handler
from likeness.adapters.deployment import _CONFIG, _PAUSES_S
from likeness.settings import Settings
from tests.functions.test_template import ROOT, TEMPLATE, environment, properties, texts

SHIFTED = ("IndexFunction", "SearchFunction")


@pytest.fixture(scope="module")
def template() -> Any:
    return cfn_yaml.load(str(TEMPLATE))


@pytest.fixture(scope="module")
def stages() -> Any:
    return tomllib.loads((ROOT / "samconfig.toml").read_text())


def parameters(stages: Any, stage: str) -> dict[str, str]:
    overrides = stages[stage]["deploy"]["parameters"]["parameter_overrides"]
    return dict(text.split("=", 1) for text in overrides)


def policy(template: Any, role: str) -> dict[str, Any]:
    """The resources of each statement, by its action."""
    [document] = properties(template, role)["Policies"]
    return {
        action: statement["Resource"]
        for statement in document["PolicyDocument"]["Statement"]
        for action in texts(statement["Action"])
    }


@pytest.mark.parametrize("name", SHIFTED)
def test_a_new_version_is_checked_before_it_gets_traffic(template: Any, name: str) -> None:
    preference = properties(template, name)["DeploymentPreference"]
    assert preference["Hooks"] == {"PreTraffic": {"Ref": "CheckFunction"}}
    assert preference["Alarms"] == [{"Ref": f"New{name.replace('Function', 'Alarm')}"}]
    assert preference["Role"] == {"Fn::GetAtt": ["DeploymentRole", "Arn"]}
    for key, of in (("Enabled", "Checked"), ("Type", "Type")):
        assert preference[key] == {"Fn::FindInMap": ["Deployments", {"Ref": "Deployment"}, of]}


def test_by_default_a_stack_does_not_use_codedeploy(template: Any) -> None:
    parameter = template["Parameters"]["Deployment"]
    ways = template["Mappings"]["Deployments"]
    assert list(ways) == parameter["AllowedValues"]
    assert [name for name, way in ways.items() if not way["Checked"]] == [parameter["Default"]]
    assert all(way["Type"] == name for name, way in ways.items() if way["Checked"])


@pytest.mark.parametrize("name", SHIFTED)
def test_only_errors_of_the_new_version_roll_it_back(template: Any, name: str) -> None:
    alarm = properties(template, f"New{name.replace('Function', 'Alarm')}")
    dimensions = {each["Name"]: each["Value"] for each in alarm["Dimensions"]}
    assert (alarm["Namespace"], alarm["MetricName"]) == ("AWS/Lambda", "Errors")
    assert dimensions["Resource"] == {"Fn::Sub": f"${{{name}}}:live"}
    assert dimensions["ExecutedVersion"] == {"Fn::GetAtt": [name, "Version.Version"]}
    assert alarm["TreatMissingData"] == "notBreaching"


def test_the_check_invokes_the_versions_that_wait_for_traffic(template: Any) -> None:
    variables = environment(template, "CheckFunction")
    versions = [{"Ref": "SearchFunction.Version"}, {"Ref": "IndexFunction.Version"}]
    asked = [variables[f"LIKENESS_{name}_VERSION"] for name in ("SEARCH", "INDEX")]
    assert asked == versions
    assert policy(template, "CheckRole")["lambda:InvokeFunction"] == versions


def test_the_check_may_report_for_this_stack_only(template: Any) -> None:
    allowed = policy(template, "CheckRole")
    reported = allowed["codedeploy:PutLifecycleEventHookExecutionStatus"]["Fn::Sub"]
    group = reported.rpartition(":deploymentgroup:")[2]
    assert group == "${AWS::StackName}-ServerlessDeploymentApplication-*/${AWS::StackName}-*"
    tracing = {"xray:PutTraceSegments", "xray:PutTelemetryRecords"}
    logging = {"logs:CreateLogStream", "logs:PutLogEvents"}
    assert allowed.keys() - tracing - logging == {
        "lambda:InvokeFunction",
        "codedeploy:PutLifecycleEventHookExecutionStatus",
        "secretsmanager:GetSecretValue",
    }
    secret = environment(template, "CheckFunction")["QDRANT_API_KEY_SECRET_ARN"]
    assert allowed["secretsmanager:GetSecretValue"] == secret


def test_codedeploy_may_update_two_aliases_and_invoke_the_check(template: Any) -> None:
    allowed = policy(template, "DeploymentRole")
    moved = allowed["lambda:UpdateAlias"]
    names = {text.split(".")[0].strip("${") for text in texts(moved) if "Function" in text}
    assert names == set(SHIFTED)
    assert allowed["lambda:InvokeFunction"] == {"Fn::GetAtt": ["CheckFunction", "Arn"]}


def test_the_check_has_time_to_report_a_version_that_does_not_answer(template: Any) -> None:
    answers_s = 2 * (_CONFIG.read_timeout + _CONFIG.connect_timeout + sum(_PAUSES_S))
    version_s = Settings("http://qdrant", ROOT).index_timeout_s
    assert answers_s + version_s < properties(template, "CheckFunction")["Timeout"]


def test_the_check_waits_longer_than_a_search_may_take(template: Any) -> None:
    assert _CONFIG.read_timeout > properties(template, "SearchFunction")["Timeout"]


def test_production_shifts_in_steps_and_confirms_change_sets(stages: Any) -> None:
    assert parameters(stages, "prod")["Deployment"] == "Canary10Percent5Minutes"
    assert parameters(stages, "dev")["Deployment"] == "AllAtOnce"
    confirmed = [stages[s]["deploy"]["parameters"]["confirm_changeset"] for s in ("dev", "prod")]
    assert confirmed == [False, True]


@pytest.mark.parametrize("stage", ["dev", "prod"])
def test_a_stage_sets_existing_parameters_to_allowed_values(
    template: Any, stages: Any, stage: str
) -> None:
    for name, value in parameters(stages, stage).items():
        parameter = template["Parameters"][name]
        assert value in parameter.get("AllowedValues", [value])
        assert "NoEcho" not in parameter  # no secret in a file
    assert f"stage={stage}" in stages[stage]["deploy"]["parameters"]["tags"]


def test_the_template_names_the_handler(template: Any) -> None:
    name = properties(template, "CheckFunction")["Handler"]
    assert name == f"{Handler.__module__.rpartition('.')[0]}.app.handler"

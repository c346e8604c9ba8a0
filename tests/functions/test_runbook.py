"""The runbook: every alarm has its page, and what the pages' commands name is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import typer
from botocore import xform_name
from cfnlint.decode import cfn_yaml

from console.app import app

ROOT = Path(__file__).parents[2]
RUNBOOK = ROOT / "docs" / "runbook"
PAGES = sorted(RUNBOOK.glob("*.md"))
TEMPLATE: Any = cfn_yaml.load(str(ROOT / "template.yaml"))
RESOURCES = TEMPLATE["Resources"]
ALARMS = sorted(n for n, found in RESOURCES.items() if found["Type"] == "AWS::CloudWatch::Alarm")
OWN = {"Fn::Sub": "Likeness/${AWS::StackName}"}
# Services that the CLI calls otherwise than botocore.
CLI_NAMES = {"s3api": "s3", "deploy": "codedeploy"}
# The CLI's own: options of every command, and a command that is no operation of the service.
CLI_OPTIONS = {"query", "output", "cli-binary-format"}
TAIL_OPTIONS = {"since", "filter-pattern"}
# What Lambda itself and Python write into a log.
FOREIGN = {
    "timed out",
    "Runtime exited",
    "signal: killed",
    "killed",
    "REPORT",
    "Traceback",
    "ERROR",
}
BY_HAND = {"README", "qdrant-down", "bad-model", "poison-image", "secret-rotation"}


def properties(name: str) -> Any:
    return RESOURCES[name]["Properties"]


def page_of(alarm: str) -> str:
    return str(properties(alarm)["AlarmName"]["Fn::Sub"]).removeprefix("${AWS::StackName}-")


def commands(page: Path) -> list[str]:
    """The lines of a page's code, those that go on with a backslash joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def aws_calls(page: Path) -> list[tuple[str, str, set[str]]]:
    """Service, operation and options of every call of the AWS CLI, those within others too."""
    text = "\n".join(commands(page))
    text = re.sub(r'"?\$\(id \w+\)"?', "ID", text)
    found = re.findall(r"\baws ([a-z0-9-]+) ([a-z0-9-]+)([^\n)]*)", text)
    return [(one, two, set(re.findall(r" --([a-z-]+)", rest))) for one, two, rest in found]


@pytest.mark.parametrize("alarm", ALARMS)
def test_an_alarm_names_its_page_of_the_runbook(alarm: str) -> None:
    name = page_of(alarm)
    assert properties(alarm)["AlarmDescription"].endswith(f" See docs/runbook/{name}.md")
    assert (RUNBOOK / f"{name}.md").is_file()
    assert f"[{name}]({name}.md)" in (RUNBOOK / "README.md").read_text()


def test_every_page_is_an_alarms_or_of_something_done_by_hand() -> None:
    assert {page.stem for page in PAGES} == {page_of(alarm) for alarm in ALARMS} | BY_HAND


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_what_to_do(page: Path) -> None:
    text = page.read_text()
    if page.stem != "README":
        for part in ("What it means.", "Look here first.", "How it recovers."):
            assert f"**{part}**" in text
    assert commands(page)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (RUNBOOK / link.partition("#")[0]).is_file(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_pages_commands_name_what_the_template_has(page: Path) -> None:
    text = "\n".join(commands(page))
    assert set(re.findall(r"\$\(id (\w+)\)", text)) <= RESOURCES.keys()
    for given in re.findall(r"PARAMETERS='([^']+)'", text):
        assert {pair.split("=")[0] for pair in given.split()} <= TEMPLATE["Parameters"].keys()
    for variable in re.findall(r"\b(QDRANT_\w+)=", text):
        assert variable in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_pages_aws_commands_exist(page: Path) -> None:
    session = botocore.session.get_session()
    for service, operation, options in aws_calls(page):
        if (service, operation) == ("logs", "tail"):
            assert options <= TAIL_OPTIONS
            continue
        model = session.get_service_model(CLI_NAMES.get(service, service))
        names = {xform_name(name, "-"): name for name in model.operation_names}
        shape = model.operation_model(names[operation]).input_shape
        members = {xform_name(name, "-") for name in (shape.members if shape else {})}
        assert options <= members | CLI_OPTIONS, (operation, options - members)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_pages_likeness_commands_exist(page: Path) -> None:
    for line in commands(page):
        if not line.startswith("likeness "):
            continue
        command: Any = typer.main.get_command(app)
        for word in line.split()[1:]:
            if not hasattr(command, "commands"):
                break
            command = command.commands[word]
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r" (--[a-z-]+)", line)) <= known, line


def test_the_pages_call_what_is_looked_for_by_the_tests_above() -> None:
    """Or they would look at nothing."""
    assert sum(len(aws_calls(page)) for page in PAGES) > 40
    told = [line for page in PAGES for line in commands(page)]
    assert sum(line.startswith("likeness ") for line in told) > 10
    assert sum("PARAMETERS=" in line for line in told) > 5


def test_what_a_page_looks_for_in_a_log_is_written_there() -> None:
    sources = [*(ROOT / "functions").rglob("*.py"), *(ROOT / "shared").rglob("*.py")]
    written = "".join(source.read_text() for source in sources)
    for page in PAGES:
        for pattern in re.findall(r"--filter-pattern '([^']+)'", "\n".join(commands(page))):
            if pattern.startswith("{"):
                for field in re.findall(r"\$\.(\w+)", pattern):
                    assert f'"{field}"' in written, field
            else:
                phrases = {
                    quoted or bare for quoted, bare in re.findall(r'"([^"]+)"|\?(\w+)', pattern)
                }
                assert all(phrase in written for phrase in phrases - FOREIGN), pattern


@pytest.mark.parametrize("alarm", ALARMS)
def test_an_alarm_is_told_when_it_begins_and_when_it_ends(alarm: str) -> None:
    assert properties(alarm)["AlarmActions"] == [{"Ref": "AlarmTopic"}]
    assert properties(alarm)["OKActions"] == [{"Ref": "AlarmTopic"}]


@pytest.mark.parametrize("function", ["Index", "Search"])
def test_a_function_is_slow_at_four_fifths_of_its_timeout(function: str) -> None:
    slow = properties(f"{function}SlowAlarm")
    assert slow["ExtendedStatistic"] == "p99"
    assert slow["Threshold"] == 800 * properties(f"{function}Function")["Timeout"]


def test_alarms_begin_where_the_design_says() -> None:
    limits = {
        page_of(alarm): (properties(alarm)["ComparisonOperator"], properties(alarm)["Threshold"])
        for alarm in ALARMS
    }
    above, below = "GreaterThanThreshold", "LessThanThreshold"
    assert limits["dead-letters"] == limits["drift"] == limits["drift-unfinished"] == (above, 0)
    assert limits["queue-age"] == (above, 15 * 60)
    assert limits["index-errors"] == limits["search-errors"] == (above, 0.01)
    assert limits["index-throttles"] == limits["search-throttles"] == (above, 0)
    assert limits["index-full"] == limits["replicas-differ"] == (above, 0)
    assert limits["canary-recall"] == (below, 0.9)
    assert limits["answers-shifted"] == (above, 0.25)


def test_replicas_that_differ_raise_an_alarm_only_if_the_next_days_run_finds_some_too() -> None:
    """The hints of the first run should have repaired them."""
    found = properties("ReplicasDifferAlarm")
    assert (found["Statistic"], found["Period"], found["EvaluationPeriods"]) == (
        "Minimum",
        24 * 60 * 60,
        2,
    )
    assert found["TreatMissingData"] == "ignore"


def own_metrics() -> set[tuple[str, str]]:
    """Service and name of our own metrics that alarms and the dashboard show."""
    shown = set()
    for alarm in ALARMS:
        if properties(alarm).get("Namespace") == OWN:
            [dimension] = properties(alarm)["Dimensions"]
            assert dimension["Name"] == "service"
            shown.add((dimension["Value"], properties(alarm)["MetricName"]))
    for widget in dashboard()["widgets"]:
        for metric in widget["properties"].get("metrics", []):
            if metric[0] == OWN["Fn::Sub"]:
                assert metric[2] == "service"
                shown.add((metric[3], metric[1]))
    return shown


def dashboard() -> Any:
    return json.loads(properties("Dashboard")["DashboardBody"]["Fn::Sub"])


def test_every_own_metric_that_is_shown_is_published() -> None:
    shown = own_metrics()
    assert len(shown) >= 20
    for service, name in shown:
        folder = ROOT / "functions" / service
        # results are metrics by their own names, in upper case
        written = "".join(f.read_text() for f in folder.glob("*.py")).lower()
        results = {"indexed", "removed", "rejected", "failed"} if service == "index" else set()
        if folder.is_dir():
            assert f'"{name}"'.lower() in written or name.lower() in results, (service, name)


def test_no_function_names_a_namespace_of_its_own() -> None:
    """The stack's is in a variable, so that two stacks do not mix."""
    for file in (ROOT / "functions").rglob("*.py"):
        assert not re.search(r"namespace=\"", file.read_text()), file
    variables = TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]
    assert variables["POWERTOOLS_METRICS_NAMESPACE"] == OWN


def test_the_dashboard_shows_only_what_the_template_has() -> None:
    text = properties("Dashboard")["DashboardBody"]["Fn::Sub"]
    named = {name.split(".")[0] for name in re.findall(r"\$\{([^}]+)\}", text)}
    assert {name for name in named if not name.startswith("AWS::")} <= RESOURCES.keys()
    titles = " ".join(widget["properties"].get("title", "") for widget in dashboard()["widgets"])
    for shown in ("Messages waiting", "Canary", "Verdict", "empty answers", "Click-through"):
        assert shown in titles


def test_mails_are_sent_only_where_an_address_is_given() -> None:
    assert TEMPLATE["Parameters"]["AlarmEmail"]["Default"] == ""
    assert RESOURCES["AlarmMail"]["Condition"] == "HasAlarmEmail"
    assert properties("AlarmMail")["TopicArn"] == {"Ref": "AlarmTopic"}

"""The backfill's state machine as template.yaml has it, run by a local Step Functions.

MiniStack lists, runs children, retries and waits; it knows no ItemBatcher, so that here each
object comes as a batch of its own, in the shape of AWS's. Its Lambda runs the real handler.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cfnlint.decode import cfn_yaml

from console.local import runner
from functions.index.events import parse_message
from likeness.errors import InvalidRequest, QueueFull
from tests.lambda_runtime import CREDENTIALS, REGION, ROOT, client

LIKENESS = (sys.executable, "-c", "from console.app import main; main()")
ROLE = "arn:aws:iam::000000000000:role/backfill"


@pytest.fixture(scope="module")
def template() -> Any:
    return cfn_yaml.load(str(ROOT / "template.yaml"))


@pytest.fixture(scope="module")
def listing(template: Any) -> Any:
    machine = template["Resources"]["Backfill"]["Properties"]
    return machine["Definition"]["States"]["Listing"]


def actions(template: Any, role: str) -> set[str]:
    [policy] = template["Resources"][role]["Properties"]["Policies"]
    found: set[str] = set()
    for statement in policy["PolicyDocument"]["Statement"]:
        named = statement["Action"]
        found |= {named} if isinstance(named, str) else set(named)
    return {a for a in found if not a.startswith(("logs:", "xray:"))}


def test_each_part_may_do_just_what_it_does(template: Any) -> None:
    send = {"sqs:SendMessage", "sqs:GetQueueAttributes"}
    assert actions(template, "FeedRole") == send
    assert actions(template, "DriftRole") == send | {
        "s3:ListBucket",
        "secretsmanager:GetSecretValue",
    }
    assert actions(template, "BackfillRole") == {
        "s3:ListBucket",
        "lambda:InvokeFunction",
        "states:StartExecution",
        "states:DescribeExecution",
        "states:StopExecution",
    }


def test_the_roles_name_of_the_state_machine_is_its_name(template: Any) -> None:
    machine = template["Resources"]["Backfill"]["Properties"]
    name = machine["StateMachineName"]["Fn::Sub"]
    told = json.dumps(template["Resources"]["BackfillRole"])
    assert f"stateMachine:{name}" in told and f"execution:{name}/*" in told


def test_a_full_queue_is_waited_for_and_bad_input_is_not(listing: Any) -> None:
    full, bad, rest = listing["ItemProcessor"]["States"]["Feed"]["Retry"]
    assert full["ErrorEquals"] == [QueueFull.__name__]
    assert full["MaxAttempts"] * full["MaxDelaySeconds"] / 2 > 5 * 24 * 3600
    assert InvalidRequest.__name__ in bad["ErrorEquals"] and bad["MaxAttempts"] == 0
    assert rest["ErrorEquals"] == ["States.ALL"]


def test_a_batch_fits_into_the_function(template: Any, listing: Any) -> None:
    """In its payload, in its time, and in the room that the queue may have."""
    feed = template["Resources"]["FeedFunction"]["Properties"]
    assert listing["ItemBatcher"]["MaxInputBytesPerBatch"] <= 256 * 1024
    assert listing["ItemProcessor"]["States"]["Feed"]["TimeoutSeconds"] > feed["Timeout"]
    assert listing["MaxConcurrency"] <= 5
    most = template["Parameters"]["MostWaiting"]
    assert listing["ItemBatcher"]["MaxItemsPerBatch"] <= most["MinValue"]


def nulls(node: Any) -> int:
    below = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return (node is None) + sum(nulls(child) for child in below)


def test_no_value_is_null_which_cloudformation_refuses(template: Any) -> None:
    assert nulls(template) == 0


def test_drift_runs_on_a_schedule_and_a_failed_run_is_left_to_the_next(template: Any) -> None:
    drift = template["Resources"]["DriftFunction"]["Properties"]
    [event] = drift["Events"].values()
    assert (event["Type"], event["Properties"]["Schedule"]) == (
        "Schedule",
        {"Ref": "DriftSchedule"},
    )
    assert drift["EventInvokeConfig"]["MaximumRetryAttempts"] == 0
    assert drift["Timeout"] == 900


# Run


class Stack:
    """What the state machine uses, in a local AWS of its own."""

    def __init__(self, url: str, listing: Any) -> None:
        self.url = url
        self.s3, self.sqs = client("s3", url), client("sqs", url)
        self.states = client("stepfunctions", url)
        self.lambdas = client("lambda", url)
        self.s3.create_bucket(Bucket="photos")
        self.queue: str = self.sqs.create_queue(QueueName="hints")["QueueUrl"]
        self.feed = self.lambdas.create_function(
            FunctionName="feed",
            Runtime="python{}.{}".format(*sys.version_info),
            Role=ROLE,
            Handler="functions.feed.app.handler",
            Code={"ZipFile": code()},
            Timeout=30,
            Environment={
                "Variables": {
                    "QDRANT_URL": "http://unused",
                    "LIKENESS_BUCKET": "photos",
                    "LIKENESS_QUEUE_URL": self.queue,
                    "LIKENESS_MOST_WAITING": "3",
                    "AWS_ENDPOINT_URL": url,
                    **CREDENTIALS,
                    "AWS_DEFAULT_REGION": REGION,
                }
            },
        )["FunctionArn"]
        one_by_one = {
            **{name: part for name, part in listing.items() if name != "ItemBatcher"},
            "ItemSelector": {
                "Items.$": "States.Array($$.Map.Item.Value)",
                "BatchInput": listing["ItemBatcher"]["BatchInput"],
            },
        }
        definition = json.dumps({"StartAt": "Listing", "States": {"Listing": one_by_one}})
        for name, text in {"${FeedArn}": self.feed, "${Partition}": "aws"}.items():
            definition = definition.replace(name, text)
        self.machine: str = self.states.create_state_machine(
            name="backfill", definition=definition, roleArn=ROLE
        )["stateMachineArn"]

    def received(self) -> set[str]:
        keys: set[str] = set()
        for message in self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get(
            "Messages", []
        ):
            keys |= {hint.ref.key for hint in parse_message(message["Body"])}
            self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
        return keys


def code() -> bytes:
    """The functions and the library in one archive, as a function with its layers sees them."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for root, folder in ((ROOT, "functions"), (ROOT / "shared", "likeness")):
            for file in (root / folder).rglob("*.py"):
                archive.write(file, file.relative_to(root))
    return out.getvalue()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, listing: Any) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("aws")
    with pytest.MonkeyPatch.context() as patch:
        # its Lambda runs handlers with the python3 of the PATH
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        patch.setenv("SFN_WAIT_SCALE", "0.02")
        with runner.ministack(folder, "s3,sqs,stepfunctions,lambda,iam,logs") as url:
            stack = Stack(url, listing)
            yield stack
            for opened in (stack.s3, stack.sqs, stack.states, stack.lambdas):
                opened.close()


def test_the_state_machine_hints_at_every_picture_and_waits_while_the_queue_is_full(
    stack: Stack, tmp_path: Path
) -> None:
    pictures = {f"in/{i} ü+%.jpg" for i in range(6)}
    for key in [*pictures, "in/notes.txt", "out.jpg"]:
        stack.s3.put_object(Bucket="photos", Key=key, Body=b"x")
    started = subprocess.run(
        [*LIKENESS, "index", "s3://photos/in/", "--workflow", stack.machine, "--data", tmp_path],
        env={
            **os.environ,
            **CREDENTIALS,
            "AWS_ENDPOINT_URL": stack.url,
            "AWS_DEFAULT_REGION": REGION,
        },
        capture_output=True,
        text=True,
        check=True,
    )
    execution = "".join(started.stdout.split()).removeprefix("started")
    keys: set[str] = set()
    deepest, deadline_s = 0, time.monotonic() + 100
    while stack.states.describe_execution(executionArn=execution)["status"] == "RUNNING":
        assert time.monotonic() < deadline_s
        name = "ApproximateNumberOfMessages"
        found = stack.sqs.get_queue_attributes(QueueUrl=stack.queue, AttributeNames=[name])
        depth = int(found["Attributes"][name])
        deepest = max(deepest, depth)
        if depth >= 3:
            keys |= stack.received()
        time.sleep(0.1)
    keys |= stack.received()
    told = stack.states.describe_execution(executionArn=execution)
    assert told["status"] == "SUCCEEDED", told
    assert keys == pictures
    assert 3 <= deepest <= 4  # two batches may see the same room

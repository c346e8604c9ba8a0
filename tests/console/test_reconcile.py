"""`likeness reconcile` of a deployed service: S3 and SQS over their APIs, Qdrant over REST."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from functions.index.events import parse_message
from likeness.records import (
    ObjectRef,
    ObjectState,
    Point,
    State,
    Version,
)
from tests.indexes import IndexAddress
from tests.lambda_runtime import CREDENTIALS, REGION, client

LIKENESS = (sys.executable, "-c", "from console.app import main; main()")
MODEL = "0123456789abcdef"


class Deployed:
    def __init__(self, aws: str, qdrant: IndexAddress) -> None:
        self.s3, self.sqs = client("s3", aws), client("sqs", aws)
        self.bucket = f"photos-{uuid.uuid4().hex[:8]}"
        self.s3.create_bucket(Bucket=self.bucket)
        self.queue: str = self.sqs.create_queue(QueueName=self.bucket)["QueueUrl"]
        self.qdrant, self.index = qdrant, qdrant.open()
        self.index.prepare(MODEL, 2)
        self.env = {
            **os.environ,
            **CREDENTIALS,
            "AWS_ENDPOINT_URL": aws,
            "AWS_DEFAULT_REGION": REGION,
            **qdrant.env,
            "LIKENESS_BUCKET": self.bucket,
            "LIKENESS_QUEUE_URL": self.queue,
            "COLUMNS": "200",
            "NO_COLOR": "1",
        }

    def write(self, key: str, state: State) -> None:
        point = Point(
            ref=ObjectRef(self.bucket, key),
            state=state,
            version=Version(1),
            model=MODEL,
            indexed_at_s=5.0,
            object=ObjectState("e", None, 7, "", 5.0) if state is State.LIVE else None,
            vector=np.array([1, 0], np.float32) if state is State.LIVE else None,
        )
        self.index.write(MODEL, [point])

    def run(self, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [*LIKENESS, "reconcile", "--lag", "0", *options, "--data", "/nowhere"]
        return subprocess.run(
            command, env=self.env | env, capture_output=True, text=True, check=False
        )

    def hints(self) -> set[str]:
        found = self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10)
        messages = found.get("Messages", [])
        return {hint.ref.key for m in messages for hint in parse_message(m["Body"])}

    def keys(self) -> set[str]:
        return {point.ref.key for point in self.index.scroll(9).points}


@pytest.fixture
def deployed(aws: str, qdrant: IndexAddress) -> Iterator[Deployed]:
    deployed = Deployed(aws, qdrant)
    deployed.s3.put_object(Bucket=deployed.bucket, Key="lost ü+.jpg", Body=b"x")
    deployed.s3.put_object(Bucket=deployed.bucket, Key="notes.txt", Body=b"x")
    deployed.write("gone.jpg", State.LIVE)
    deployed.write("swept.jpg", State.GONE)
    yield deployed
    deployed.s3.close()
    deployed.sqs.close()
    deployed.index.close()


def test_a_dry_run_only_reports_and_a_full_run_sends_hints(deployed: Deployed) -> None:
    said = deployed.run("--dry-run")
    assert said.returncode == 1, said.stderr
    for shown in ("lost ü+.jpg", "gone.jpg", "nothing was changed", "2 objects, 1 points"):
        assert shown in said.stdout
    assert deployed.hints() == set()
    assert deployed.keys() == {"gone.jpg", "swept.jpg"}

    done = deployed.run("--json")
    assert done.returncode == 0, done.stderr
    report: Any = json.loads(done.stdout)
    assert {d["key"]: d["kind"] for d in report["differences"]} == {
        "lost ü+.jpg": "missing",
        "gone.jpg": "extra",
    }
    assert (report["drift"], report["swept"], report["ignored"]) == (2, 1, 1)
    assert deployed.hints() == {"lost ü+.jpg", "gone.jpg"}
    assert deployed.keys() == {"gone.jpg"}


def test_it_says_which_index_it_means_and_stops_at_another_buckets(deployed: Deployed) -> None:
    before = deployed.keys()
    other = {"LIKENESS_BUCKET": f"{deployed.bucket}-2", "LIKENESS_QUEUE_URL": deployed.queue}
    deployed.s3.create_bucket(Bucket=other["LIKENESS_BUCKET"])
    deployed.s3.put_object(Bucket=other["LIKENESS_BUCKET"], Key="a.jpg", Body=b"x")
    where = f"index  alias {deployed.qdrant.alias} at {deployed.qdrant.url}"
    named = f"{where}, images of s3://{deployed.bucket}"
    for options in ([], ["--dry-run"], ["--json"]):
        said = deployed.run(*options, **other)
        assert said.returncode == 1
        assert f"holds images of s3://{deployed.bucket} and none of s3://{deployed.bucket}-2" in (
            said.stderr
        )
        assert "--force" in said.stderr and "Traceback" not in said.stderr
        assert f"{named}-2" in (said.stderr if options == ["--json"] else said.stdout)
    assert (deployed.hints(), deployed.keys()) == (set(), before)
    # a second bucket of the same service, whose first images are missing
    assert deployed.run("--force", **other).returncode == 0
    assert deployed.hints() == {"a.jpg"}
    assert named in deployed.run("--dry-run").stdout


def test_a_strangers_collection_behind_the_alias_is_named(deployed: Deployed) -> None:
    qdrant = deployed.qdrant
    cities, places = f"{qdrant.alias}-cities", f"{qdrant.alias}-places"
    vectors = {"size": 4, "distance": "Cosine"}
    qdrant.call("PUT", f"/collections/{places}", {"vectors": vectors})
    alias = {"alias_name": cities, "collection_name": places}
    qdrant.call("POST", "/collections/aliases", {"actions": [{"create_alias": alias}]})
    said = deployed.run(LIKENESS_ALIAS=cities)
    assert said.returncode == 1
    assert f"{cities} in Qdrant is not a collection of Likeness" in said.stderr


def test_a_password_in_the_address_is_not_shown(deployed: Deployed) -> None:
    url = deployed.env["QDRANT_URL"].replace("//", "//user:secret@")
    said = deployed.run("--dry-run", QDRANT_URL=url)
    assert "secret" not in said.stdout + said.stderr


@pytest.mark.parametrize("name", ["QDRANT_URL", "LIKENESS_BUCKET", "LIKENESS_QUEUE_URL"])
def test_a_setting_that_is_missing_is_named(deployed: Deployed, name: str) -> None:
    said = deployed.run(**{name: ""})
    assert said.returncode == 1
    assert f"{name} is not set" in said.stderr
    assert "Traceback" not in said.stderr

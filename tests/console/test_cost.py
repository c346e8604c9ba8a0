"""`likeness cost`: the price list, and what is computed from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cfnlint.decode import cfn_yaml
from typer.testing import CliRunner

from console.app import app
from console.cost import cost_report, pricing
from console.cost.pricing import (
    Measurements,
    Run,
    gate_usd,
    index_usd,
    lambda_usd,
    price_list,
    search_usd,
)
from console.local.service import http_server
from tests.pictures import jpeg, png
from tests.service import ROOT, Service

SWEEP = Measurements(
    "by hand",
    search=[Run(1024, 1, 120.0), Run(1769, 1, 60.0), Run(3538, 2, 50.0)],
    index=[Run(1769, 1, 40.0)],
)


def test_every_price_has_its_source_and_says_whether_it_was_checked() -> None:
    prices = price_list()
    assert prices.region == "us-east-1" and prices.as_of
    assert len(prices.prices) > 10
    for name, price in prices.prices.items():
        assert 0 < price.usd < 10, name
        assert price.source.startswith("https://aws.amazon.com/"), name
        assert isinstance(price.checked, bool)


def test_lambda_costs_as_much_as_by_hand() -> None:
    # a second at 1,024 MB is a GB-second
    assert lambda_usd(1000, 1024) == pytest.approx(0.0000166667)
    assert lambda_usd(500, 2048) == pytest.approx(0.0000166667)
    assert lambda_usd(1000, 1024, "arm64") == pytest.approx(0.8 * 0.0000166667, rel=1e-4)


def test_a_million_queries_add_up_as_by_hand() -> None:
    run, measured = Run(1769, 1, 60.0), Measurements("", answer_bytes=10_000, search_log_bytes=1650)
    parts = search_usd(run, measured, "x86_64")
    assert parts["Lambda, time"] == pytest.approx(1e6 * 0.06 * 1769 / 1024 * 0.0000166667)
    assert parts["Lambda, requests"] == pytest.approx(0.20)
    assert parts["API Gateway"] == pytest.approx(3.50)
    assert parts["logs"] == pytest.approx(2000 * 1e6 / 1e9 * 0.5)
    assert parts["traffic out"] == pytest.approx(10 * 0.09)


def test_a_million_images_add_up_as_by_hand() -> None:
    parts = index_usd(Run(1024, 1, 100.0), Measurements("", batch=10), "arm64")
    assert parts["Lambda, time"] == pytest.approx(1e5 * 0.0000133334)
    assert parts["queue"] == pytest.approx(1.2 * 0.4)
    assert parts["bucket, reading"] == pytest.approx(3 * 0.4)
    assert parts["bucket, uploads"] == pytest.approx(5.0)


def test_the_duplicate_gate_costs_as_much_as_by_hand() -> None:
    measured = Measurements("", gate_ms=20.0, pair_ms=30.0, pairs=0.5)
    parts = gate_usd(measured, "x86_64")
    gb_second = 1769 / 1024 * 0.0000166667
    assert parts["comparing, in all orientations"] == pytest.approx(1e6 * 0.020 * gb_second)
    assert parts["proving suspected duplicates"] == pytest.approx(1e6 * 0.015 * gb_second)
    assert parts["reading them"] == pytest.approx(0.5 * 0.4)
    images = index_usd(Run(1769, 1, 60.0), measured, "x86_64")
    assert images["bucket, suspected duplicates"] == parts["reading them"]
    assert sum(parts.values()) < sum(images.values())
    shown = cost_report.as_json(msgspec.structs.replace(SWEEP, gate_ms=20.0))
    assert shown["duplicate_gate"]["x86_64"].keys() == parts.keys()


def test_the_monthly_cost_counts_the_templates_resources() -> None:
    template: Any = cfn_yaml.load(str(ROOT / "template.yaml"))
    kinds = [found["Type"] for found in template["Resources"].values()]
    assert kinds.count("AWS::CloudWatch::Alarm") == pricing.ALARMS
    functions = [
        found["Properties"]
        for found in template["Resources"].values()
        if found["Type"] == "AWS::Serverless::Function"
    ]
    # Globals gives each function one
    assert sum("SnapStart" not in properties for properties in functions) == pricing.SNAPSHOTS
    assert kinds.count("AWS::SecretsManager::Secret") == pricing.SECRETS


def test_the_cheapest_and_the_fastest_setting_are_found() -> None:
    cheapest, fastest = cost_report.best(cost_report.costs(SWEEP)["queries"])
    assert (cheapest.run.memory_mb, fastest.run.memory_mb) == (1769, 3538)


def test_an_equal_price_goes_to_less_memory() -> None:
    runs = Measurements("", search=[Run(2048, 1, 50.0), Run(1024, 1, 100.0)])
    cheapest, _ = cost_report.best(cost_report.costs(runs)["queries"])
    assert cheapest.run.memory_mb == 1024


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["cost", *map(str, arguments)], env={"COLUMNS": "160"})


def test_the_command_reads_what_the_sweep_wrote(tmp_path: Path) -> None:
    file = tmp_path / "memory.json"
    file.write_bytes(msgspec.json.encode(SWEEP))
    done = run("--measured", file)
    assert done.exit_code == 0
    assert "by hand" in done.output and "cheapest" in done.output and "us-east-1" in done.output
    told = json.loads(run("--measured", file, "--json").output)
    [first, *_] = told["a_million"]["queries"]
    parts = search_usd(SWEEP.search[0], SWEEP, "arm64")
    assert first["usd"]["arm64"]["total"] == pytest.approx(sum(parts.values()))
    assert set(told["a_month"]) == set(pricing.month_usd(1769))


def test_milliseconds_can_be_passed_as_options() -> None:
    told = json.loads(run("--search-ms", "80", "--memory-mb", "2048", "--json").output)
    [query] = told["a_million"]["queries"]
    assert (query["memory_mb"], query["billed_ms"]) == (2048, 80.0)
    assert told["a_million"]["images"] == []


def test_without_milliseconds_the_error_names_their_sources(tmp_path: Path) -> None:
    done = run("--measured", tmp_path / "none.json")
    assert done.exit_code == 1
    assert "--search-ms" in str(done.exception) and "benchmarks/memory.py" in str(done.exception)
    (tmp_path / "none.json").write_text("{}")
    assert "was not written by" in str(run("--measured", tmp_path / "none.json").exception)


def test_a_running_service_is_measured_with_a_photo(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(jpeg(1))
    with Service(tmp_path / "index") as service:
        service.fill({f"{n}.png": png(n) for n in range(3)})
        with http_server(service.app, 0) as url:
            done = run(tmp_path / "photo.jpg", "--url", url, "--json")
    assert len(service.recorded) == 30
    told = json.loads(done.output[done.output.index("{") :])
    [query] = told["a_million"]["queries"]
    took_ms = [json.loads(line)["took_ms"]["total"] for line in service.recorded[1:]]
    assert query["billed_ms"] == pytest.approx(sum(took_ms) / len(took_ms), abs=0.01)

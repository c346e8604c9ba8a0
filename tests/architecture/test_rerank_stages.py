"""A rerank stage has one place: its entry in a list, which everything else reads.

CONTRIBUTING.md, "Add a rerank stage", is the walk that is tried here on a stage that exists only in
this file.
"""

from __future__ import annotations

import inspect
import io
import re
import shutil
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from msgspec import json
from rich.console import Console
from rich.progress import Progress

from console.diagnostics import answer_log
from console.evaluation import calibrator, reporting
from console.evaluation.evaluator import Options, evaluate
from console.evaluation.stages import TRIED, table_rows, tried
from likeness.model import load_spec
from likeness.rerank.profiles import GEOMETRY, PROFILES, REFINEMENT, STAGES, Profile
from likeness.rerank.ranker import Ranker
from likeness.rerank.stage import Need, Order, RankingTask, Stage, StageResult
from tests.calibrations import calibration_of
from tests.image_features import made, spec
from tests.pictures import jpeg, png
from tests.service import FIXED_FILTERS, Service

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "shared" / "likeness" / "rerank"
PAGE = ROOT / "functions" / "search" / "page" / "proof.js"


class Lists(NamedTuple):
    """Where a stage is named. `rows`: those of the table of gains; page: its proof.js."""

    stages: tuple[Stage, ...]
    profiles: Mapping[Profile, tuple[Stage, ...]]
    rows: tuple[str, ...]
    page: str


TODAY = Lists(
    STAGES, dict(PROFILES), tuple(row.name for row in table_rows()), PAGE.read_text("utf-8")
)


def page_labels(page: str) -> dict[str, str]:
    [line] = re.findall(r"^const STAGES = \{(.*)\};$", page, re.MULTILINE)
    return dict(re.findall(r'"?(\w[\w -]*?)"?: "([^"]*)"', line))


def module_of(stage: Stage) -> Any:
    run = stage.run.func if isinstance(stage.run, partial) else stage.run
    return sys.modules[run.__module__]


def forgotten_steps(stage: Stage, lists: Lists) -> list[str]:
    """What the walk asks for and the stage does not have, each beginning with the stage's name."""
    module = module_of(stage)
    steps = {
        "its function is in a file of its own under rerank/": (
            Path(str(module.__file__)).parent == FOLDER
        ),
        "the file's docstring says where the method comes from": len(module.__doc__ or "") > 100,
        "its function says what it does": bool(inspect.getdoc(stage.run)),
        "it has a label": bool(stage.label),
        "it has a time budget": stage.budget_s > 0,
        "it is in STAGES": stage.name in [each.name for each in lists.stages],
        "it is in a profile": any(
            stage.name == each.name for stages in lists.profiles.values() for each in stages
        ),
        "it has a row in the table of gains": stage.name in lists.rows,
        "the page has its label": page_labels(lists.page).get(stage.name) == stage.label,
    }
    return [f"{stage.name}: {step}" for step, done in steps.items() if not done]


EVERY = {stage.name: stage for stages in (STAGES, *PROFILES.values()) for stage in stages}


@pytest.mark.parametrize("stage", EVERY.values(), ids=EVERY)
def test_no_step_of_the_walk_was_forgotten(stage: Stage) -> None:
    assert forgotten_steps(stage, TODAY) == []


def test_names_are_unique_also_among_stages_that_were_tried() -> None:
    names = [stage.name for stage in STAGES] + [stage.name for stage in TRIED]
    assert len(set(names)) == len(names)


def test_the_page_names_no_stage_that_is_not_in_the_list() -> None:
    assert set(page_labels(TODAY.page)) == {
        *("cosine", "ordered"),  # where a ranking starts and ends
        *(stage.name for stage in STAGES),
    }


# A stage that exists only here


def add_brightness(task: RankingTask, order: Order) -> StageResult:
    """A tenth of how near the mean brightness of both images is."""

    def brightness(colours: bytes | None) -> float:
        return float(np.frombuffer(colours or b"\0", np.uint8).mean() / 255)

    query = brightness(task.views[0].colours)
    scores = [1 - abs(brightness(c.colours) - query) for c in task.candidates]
    own = np.array(scores, np.float32)
    return StageResult(Order(order.score + np.float32(0.1) * own, order.view), own)


BRIGHTNESS = Stage(
    "brightness",
    label="Same brightness",
    run=add_brightness,
    budget_s=0.01,
    needs=frozenset({Need.CALIBRATION}),
)
WITH_BRIGHTNESS = (REFINEMENT, BRIGHTNESS, GEOMETRY)


@pytest.fixture
def in_precise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROFILES, Profile.PRECISE, WITH_BRIGHTNESS)  # type: ignore[arg-type]


@pytest.mark.usefixtures("in_precise")
def test_a_stage_in_a_profile_is_scored_and_is_skipped_when_time_is_short() -> None:
    ranker = Ranker(spec(with_local=False), calibration_of(load_spec(FIXED_FILTERS)))
    query, candidates = made(1, local=None), [made(n, local=None) for n in (2, 3, 4)]
    ranked = ranker.rank([query], candidates, Profile.PRECISE, 3)
    assert list(ranked.stages) == ["cosine", "refinement", "brightness", "geometry"]
    before = ranker.run((REFINEMENT,), [query], candidates, 3)
    np.testing.assert_allclose(ranked.score, before.score + 0.1 * ranked.stages["brightness"])
    left_s = iter((1.0, 0.009)).__next__
    hurried = ranker.rank([query], candidates, Profile.PRECISE, 3, left_s)
    assert hurried.skipped == ["brightness"]


@pytest.mark.usefixtures("in_precise")
def test_answers_and_the_command_explain_name_it_by_themselves(tmp_path: Path) -> None:
    with Service(tmp_path, FIXED_FILTERS) as service:
        service.fill({f"{n}.png": png(n) for n in range(4)})
        answer = service.search(key="3.png", explain=True).json()
        assert "brightness" in answer["results"][0]["explain"]["scores"]
        line = json.decode(service.recorded[-1])
    out = io.StringIO()
    answer_log.show([line], None, Console(file=out, width=200))
    assert "brightness" in out.getvalue()


@pytest.mark.usefixtures("in_precise")
def test_the_table_of_gains_measures_it_by_itself(tmp_path: Path) -> None:
    over = {row.name: row.before[-1] for row in table_rows() if row.before}
    assert over["brightness"] == "refinement"
    assert over["geometry"] == "brightness"
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(4):
        (folder / f"{seed}.jpg").write_bytes(jpeg(seed, 200, 150))
    bundle = tmp_path / "bundle"
    shutil.copytree(FIXED_FILTERS, bundle)
    calibrator.write(calibration_of(load_spec(bundle)), bundle)
    with Progress(disable=True) as progress:
        found, _ = evaluate(folder, Options(bundle, tmp_path, True, None, 3), progress)
    del over["late interaction"]  # this network has no patches
    stages = {stage.name: stage.over for stage in found.found[0].stages}
    assert stages == {**over, "none": None}
    out = io.StringIO()
    reporting.show(found, Console(file=out, width=200))
    assert "brightness" in out.getvalue()
    assert "brightness" in reporting.page(found, [])


def test_a_stage_that_is_only_tried_has_its_row_and_no_profile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = tried(BRIGHTNESS, after=(REFINEMENT,))
    monkeypatch.setattr("console.evaluation.stages.TRIED", (*TRIED, row))
    over = {each.name: each.before[-1] for each in table_rows() if each.before}
    assert (over["brightness"], over["geometry"]) == ("refinement", "refinement")


COMPLETE = Lists(
    (*STAGES, BRIGHTNESS),
    {**TODAY.profiles, Profile.PRECISE: WITH_BRIGHTNESS},
    (*TODAY.rows, "brightness"),
    TODAY.page.replace("geometry:", 'brightness: "Same brightness", geometry:'),
)
OWN_FILE = ["brightness: its function is in a file of its own under rerank/"]  # it is in this one


@pytest.mark.parametrize(
    ("stage", "lists", "complaint"),
    [
        (BRIGHTNESS._replace(label=""), {}, "it has a label"),
        (BRIGHTNESS._replace(budget_s=0), {}, "it has a time budget"),
        (BRIGHTNESS, {"stages": STAGES}, "it is in STAGES"),
        (BRIGHTNESS, {"profiles": TODAY.profiles}, "it is in a profile"),
        (BRIGHTNESS, {"rows": TODAY.rows}, "it has a row in the table of gains"),
        (BRIGHTNESS, {"page": TODAY.page}, "the page has its label"),
        (BRIGHTNESS._replace(label="Another"), {}, "the page has its label"),
    ],
)
def test_a_forgotten_step_is_named(stage: Stage, lists: Mapping[str, Any], complaint: str) -> None:
    changed = COMPLETE._replace(**lists)
    assert f"brightness: {complaint}" in forgotten_steps(stage, changed)
    assert forgotten_steps(BRIGHTNESS, COMPLETE) == OWN_FILE

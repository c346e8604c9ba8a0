"""`likeness adapt`: learns a map, tries it, and writes a bundle if it is worth having."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct
from rich.progress import Progress

from likeness.embedding import Embedder
from likeness.errors import ConfigurationError
from likeness.model import ModelSpec, load_spec
from likeness.ports import VectorIndex
from likeness.proof.verdicts import Calibration

from ..bundles import adapted_bundle
from ..evaluation import calibration_pairs, calibrator
from ..evaluation.calibration_report import HeldOutResult
from ..evaluation.datasets import Item
from . import guards, results, selection, training_set
from .results import Adaptation, Scored
from .searching import Searches
from .selection import Selection
from .training_set import TrainingSet

_CALIBRATED_WITH = 100  # images


class Options(Struct, frozen=True):
    """cache: the folder of features. target: the new bundle's folder, None to write nothing;
    replace: whether one that exists is replaced. Of more than `pictures` images some are drawn.
    """

    model: Path
    cache: Path
    target: Path | None
    replace: bool = False
    general: Path | None = None
    pictures: int = 5000
    seed: int = 0


def adapt(
    source: VectorIndex | Path, split: str | None, options: Options, progress: Progress
) -> Adaptation:
    """Learn from images, or from the feedback in an index.

    Raises DatasetError where there is too little to learn from, ModelBundleError for a bundle that
    cannot be adapted, FileExistsError where its folder cannot be written, Unavailable for an index
    that is down or of another model.
    """
    if options.target:
        spec = load_spec(options.model)
        adapted_bundle.check_adaptable(options.model, spec, options.target, options.replace)
    embedder = Embedder(options.model)
    training = _training_set(source, split, embedder, options, progress)
    general = guards.read_general(options.general, embedder, options.cache, options.seed, progress)
    # verdicts are calibrated with the user's own images, which the shipped ones are not
    own = [*training.items, *(general.items if options.general else ())]
    if options.target:
        guards.check_calibratable(own, calibration_pairs.MIN_IMAGES)
    watched = _watched(training, general, embedder, options, progress)
    searches = training.searches(options.seed)
    task = progress.add_task("learning", total=selection.STEPS)
    found = selection.select(
        training, searches, watched, options.seed, lambda: progress.advance(task)
    )
    report = _report(training, found, embedder, options.seed)
    if report.outcome == "gain" and options.target:
        return _written(report, found, own, options, options.target, progress)
    return report


def _training_set(
    source: VectorIndex | Path,
    split: str | None,
    embedder: Embedder,
    options: Options,
    progress: Progress,
) -> TrainingSet:
    if isinstance(source, Path):
        return training_set.from_images(
            source, split, embedder, options.cache, options.pictures, options.seed, progress
        )
    if (searched := source.info().model) != embedder.fingerprint:
        raise ConfigurationError(
            f"the index is of model {searched}, the bundle is {embedder.fingerprint}: name the "
            "bundle that the service searches with, with --model"
        )
    return training_set.from_feedback(source, embedder)


def _watched(
    training: TrainingSet,
    general: guards.General,
    embedder: Embedder,
    options: Options,
    progress: Progress,
) -> list[Searches]:
    """The searches that must not become worse."""
    found = [training.photo_searches(options.seed), guards.general_searches(general)]
    sets = [("general: copies", general.items, general.vectors, training.vectors)]
    if training.items:
        sets.insert(0, ("copies", training.items, training.vectors, general.vectors))
    found += [
        guards.copy_searches(*each, embedder, options.cache, options.seed, progress)
        for each in sets
    ]
    return [each for each in found if each is not None]


def _report(training: TrainingSet, found: Selection, embedder: Embedder, seed: int) -> Adaptation:
    worse = [each.name for each in (found.unseen, *found.changes) if each.loses]
    gain = found.unseen.r_at_1_gain
    interval = f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
    if found.plan is None or found.unseen.loses:
        outcome, reason = "loss", f"an adapter makes these worse: {', '.join(worse)}"
    elif not found.unseen.gains:
        outcome = "no gain"
        reason = f"on products left out R@1 changes by {interval}, which is not above zero"
    else:
        outcome = "gain"
        reason = f"on products left out R@1 changes by {interval}; chosen: {found.plan}"
    return Adaptation(
        outcome,  # type: ignore[arg-type]
        reason,
        embedder.fingerprint,
        embedder.spec.name,
        training.source,
        len(training.vectors),
        training.products,
        training.left_out,
        seed,
        found.plan,
        [Scored(plan, score) for plan, score in found.scores.items()],
        [found.unseen, *found.changes],
    )


def _written(
    report: Adaptation,
    found: Selection,
    items: Sequence[Item],
    options: Options,
    target: Path,
    progress: Progress,
) -> Adaptation:
    assert found.mapped is not None
    finished: list[Adaptation] = []

    def complete(folder: Path, spec: ModelSpec) -> None:
        calibration, held_out = _calibrated(folder, report, items, options, progress)
        calibrator.write(calibration, folder)
        done = msgspec.structs.replace(
            report, bundle=str(target), fingerprint=spec.fingerprint, calibration=held_out
        )
        (folder / adapted_bundle.CARD).write_text(results.card(done), encoding="utf-8")
        finished.append(done)

    adapted_bundle.write(target, options.model, found.mapped, complete)
    return finished[0]


def _calibrated(
    folder: Path,
    report: Adaptation,
    items: Sequence[Item],
    options: Options,
    progress: Progress,
) -> tuple[Calibration, HeldOutResult]:
    """Verdicts of the adapted network, and how they do on images held out."""
    known = calibrator.starting_point(options.model, report.model)
    embedder = Embedder(folder)
    task = progress.add_task("calibrating", total=min(len(items), _CALIBRATED_WITH))

    def advancing(numbers: Iterable[int]) -> Iterable[int]:
        for number in numbers:
            yield number
            progress.advance(task)

    pairs = calibration_pairs.make_pairs(items, embedder, _CALIBRATED_WITH, options.seed, advancing)
    made_from = f"{Path(report.source).name}, adapted"
    calibration = calibrator.fit_calibration(pairs, embedder.fingerprint, made_from, known)
    return calibration, calibrator.held_out_result(pairs, embedder.fingerprint, known)

"""Writes a model bundle from a run's network: image.onnx, model.json and MODEL_CARD.md.

The card's figures are generated from evaluate.py's results and the runs' logs.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec

from console.bundles.golden import write_golden
from evaluate import BUNDLED, Cell, tables
from likeness.model import NEWEST_PREPROCESSING
from network import COARSE, EMBEDDING_DIM, FINE, LOCAL_DIM
from pixels import MEAN, SIDE, STD

_CARD = Path(__file__).resolve().parent / "MODEL_CARD.md"
PATCH_DIM = 64
_LOGGED = ("step", "minutes", "clothing", "objects", "copies", "views", "instances")


def manifest(network: bytes, version: str) -> dict[str, Any]:
    """model.json, as likeness.model.ModelSpec reads it."""
    return {
        "name": "likeness-small",
        "version": version,
        "licence": "Apache-2.0",
        "source": "Trained by this project from random weights: training/README.md, MODEL_CARD.md.",
        "preprocessing": NEWEST_PREPROCESSING,
        "files": {"image.onnx": hashlib.sha256(network).hexdigest()},
        "input": {"name": "image", "height": SIDE, "width": SIDE},
        "resize": {"rule": "squash", "filter": "bicubic"},
        "normalise": {"mean": MEAN, "std": STD},
        "embedding": {"name": "embedding", "dim": EMBEDDING_DIM},
        "patches": {"name": "patches", "side": COARSE, "dim": PATCH_DIM},
        "local": {"name": "local", "side": FINE, "dim": LOCAL_DIM, "salience": "salience"},
    }


def write(folder: Path, network: Path, version: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(network, folder / "image.onnx")
    text = json.dumps(manifest(network.read_bytes(), version), indent=2, sort_keys=True) + "\n"
    (folder / "model.json").write_text(text, encoding="utf-8")


def card(work: Path, evaluation: Path) -> str:
    """The model card: the template with its tables filled in."""
    cells = msgspec.json.decode(evaluation.read_bytes(), type=list[Cell])
    parts = {"evaluation": tables(cells), "tries": run_table(work)}
    filled = _CARD.read_text(encoding="utf-8")
    for name, text in parts.items():
        filled = filled.replace(f"{{{{{name}}}}}", text)
    return filled


def run_table(work: Path) -> str:
    """A table with a row for each run that has a log: its steps and last validation figures."""
    lines = [f"| run | {' | '.join(_LOGGED)} |", "|---" * (len(_LOGGED) + 1) + "|"]
    for log in sorted(work.glob("*/log.csv")):
        with log.open(encoding="utf-8", newline="") as file:
            last = list(csv.DictReader(file))[-1]
        figures = " | ".join(last[name] for name in _LOGGED)
        lines.append(f"| {log.parent.name} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("run")
    parser.add_argument("--version", default="2")
    parser.add_argument("--evaluation", type=Path, help="evaluation.json, for the model card")
    parser.add_argument("--out", type=Path, default=BUNDLED, help="(default: layers/model)")
    arguments = parser.parse_args()
    write(arguments.out, arguments.work / arguments.run / "image.onnx", arguments.version)
    write_golden(arguments.out)
    if arguments.evaluation:
        text = card(arguments.work, arguments.evaluation)
        (arguments.out / "MODEL_CARD.md").write_text(text, encoding="utf-8")
    print(f"{arguments.out}: {(arguments.out / 'image.onnx').stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

"""The images of the quality gate, and its baseline, which `make baseline` writes again.

The bundled model is measured offline, through the real command, on edited copies of real
photographs and of drawn products. The products differ only by colour, so each looks like a
recoloured copy of another: ranking them is hard, and verdicts on them are not meaningful.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from console.demo import sample_images
from console.evaluation.results import RESULTS

BASELINE = Path(__file__).with_name("baseline.json")
_QUERIES = 38  # two of each edit, and two unedited images
# Two queries of 38 may fail: other processors round int8 sums differently.
_TOLERANCE = 0.06
_LIKENESS = (sys.executable, "-c", "from console.app import main; main()")


def measure(folder: Path, *more: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `likeness evaluate`; all its output files are in the folder."""
    images = folder / "gate"
    images.mkdir()
    for item in (*sample_images.photographs(), *sample_images.products()):
        (images / item.key.replace("/", "-")).write_bytes(item.data)
    # the bundled model, even if the shell names another
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LIKENESS_")}
    return subprocess.run(
        [
            *(*_LIKENESS, "evaluate", images, "--synthetic", "--queries", str(_QUERIES)),
            *("--out", folder, "--tolerance", str(_TOLERANCE), *more),
        ],
        env=environment | {"COLUMNS": "80", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        completed = measure(Path(folder))
        print(completed.stdout, completed.stderr)
        completed.check_returncode()
        BASELINE.write_bytes((Path(folder) / RESULTS).read_bytes())


if __name__ == "__main__":
    main()

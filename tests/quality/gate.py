"""The gate's pictures, and its baseline: `make baseline` writes it anew.

What the bundled model is measured on offline, through the real command: edited copies of real
photographs and of drawn products that differ by their colour alone: each other's recoloured copies,
so that verdicts on them say nothing, and the order is hard.
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
_QUERIES = 38  # two of each edit, and two pictures as they are
# Two queries of 38 may go astray: int8 sums are rounded in another way on other processors.
_TOLERANCE = 0.06
_LIKENESS = (sys.executable, "-c", "from console.app import main; main()")


def measure(folder: Path, *more: str | Path) -> subprocess.CompletedProcess[str]:
    """`likeness evaluate`, with all that it writes under the folder."""
    pictures = folder / "gate"
    pictures.mkdir()
    for item in (*sample_images.photographs(), *sample_images.products()):
        (pictures / item.key.replace("/", "-")).write_bytes(item.data)
    # as it is shipped, whatever model the shell names
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LIKENESS_")}
    return subprocess.run(
        [
            *(*_LIKENESS, "evaluate", pictures, "--synthetic", "--queries", str(_QUERIES)),
            *("--out", folder, "--tolerance", str(_TOLERANCE), *more),
        ],
        env=environment | {"COLUMNS": "80", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        done = measure(Path(folder))
        print(done.stdout, done.stderr)
        done.check_returncode()
        BASELINE.write_bytes((Path(folder) / RESULTS).read_bytes())


if __name__ == "__main__":
    main()

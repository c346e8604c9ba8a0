"""One target under atheris (libFuzzer for Python): `python -m fuzz.run TARGET CORPUS [OPTIONS]`.

CORPUS is the folder for inputs that reach new code; the next run continues from it. OPTIONS are
libFuzzer's: -max_total_time=60, or the file of a crash to reproduce it.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["likeness", "functions", "PIL", "json", "urllib"]):
    from fuzz.targets import TARGETS, seeds


def main() -> None:
    if len(sys.argv) < 3 or sys.argv[1] not in TARGETS:
        sys.exit(f"{__doc__}\nTARGET is one of {', '.join(TARGETS)}.")
    name, corpus, *options = sys.argv[1:]
    folder = Path(corpus)
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (folder / f"seed-{number}").write_bytes(seed)
    warnings.simplefilter("ignore")  # Pillow warns of damage that it tolerates
    artifacts = f"-artifact_prefix={folder.parent}/{name}-"
    atheris.Setup([sys.argv[0], artifacts, *options, corpus], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""The `likeness` command."""

import os

# As template.yaml has it, and before NumPy is loaded: what is timed here runs as it is deployed.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

"""The `likeness` command."""

import os

# As in template.yaml, so that timings match a deployment. Set before NumPy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

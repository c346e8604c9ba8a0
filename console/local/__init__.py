"""The whole service on this machine, for `likeness serve` and the demo."""

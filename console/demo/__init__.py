"""`likeness demo`: the main path, end to end, with known answers."""

"""Fuzzing of everything that parses untrusted input: `make fuzz` and tests/unit/test_fuzzing.py."""

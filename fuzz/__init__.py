"""Fuzzing of everything that parses untrusted input: `make fuzz` and tests/test_fuzzing.py."""

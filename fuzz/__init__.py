"""What strangers send, damaged in every way: `make fuzz`, and tests/unit/test_fuzzing.py."""

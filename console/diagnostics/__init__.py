"""What is wrong with an installation, and why an answer looks as it does."""

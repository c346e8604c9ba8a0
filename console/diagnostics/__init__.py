"""What is wrong with an installation, and how an answer came about."""

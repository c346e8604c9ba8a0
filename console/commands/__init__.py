"""The commands of `likeness`, one module for each."""

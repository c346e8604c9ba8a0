"""The subcommands of `likeness`, a file each."""

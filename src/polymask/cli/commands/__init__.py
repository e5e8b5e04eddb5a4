"""The subcommands of ``polymask``: each a function of its arguments that returns an exit code."""

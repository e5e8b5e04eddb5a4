"""One stream under several orders of its tasks: which they are, their runs, and how far final scores depend on them."""

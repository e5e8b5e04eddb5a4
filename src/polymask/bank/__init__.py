"""A base and its tasks on disk: everything that is needed to answer without a method."""

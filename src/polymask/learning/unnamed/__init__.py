"""Runs whose tasks are told apart by their inputs: outputs that belong to no label, and what asking costs."""

"""Runs in which nobody says which task an input is of: outputs of no label, what asking costs, learning so."""

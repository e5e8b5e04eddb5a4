"""Figures of runs besides those of the matrix: what they weigh, what answering costs, tables of several runs."""

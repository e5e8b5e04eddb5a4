"""Widen a network and prune it: which layers can have more units, and which of their units can go."""

from polymask.surgery.axes import Axes, CannotGrow, widen
from polymask.surgery.cut import Pruned, prune
from polymask.surgery.grow import growable

__all__ = ["Axes", "CannotGrow", "Pruned", "growable", "prune", "widen"]

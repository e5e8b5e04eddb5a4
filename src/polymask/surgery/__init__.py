"""Widen a network: which layers can have more units, and the new rows and columns that they then get."""

from polymask.surgery.axes import Axes, CannotGrow, widen
from polymask.surgery.grow import growable

__all__ = ["Axes", "CannotGrow", "growable", "widen"]

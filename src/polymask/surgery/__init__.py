"""Widen a network, prune it, plug adapters in: which layers can grow, which units can go, where branches end."""

from polymask.surgery.adapters import Adapter, add_adapters
from polymask.surgery.axes import Axes, CannotGrow, widen
from polymask.surgery.cut import Pruned, prune
from polymask.surgery.grow import growable
from polymask.surgery.joints import CannotPlug, Joint, find_joints

__all__ = [
    "Adapter",
    "Axes",
    "CannotGrow",
    "CannotPlug",
    "Joint",
    "Pruned",
    "add_adapters",
    "find_joints",
    "growable",
    "prune",
    "widen",
]

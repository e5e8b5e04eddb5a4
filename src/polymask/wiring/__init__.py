"""Which unit feeds which column of a network, and what a mask on units therefore shuts."""

from polymask.wiring.ask import ask
from polymask.wiring.table import Feed, Wiring

__all__ = ["Feed", "Wiring", "ask"]

"""One batch, many tasks: what only masks on units make possible."""

from __future__ import annotations

from polymask.mixed.batch import Mixed

__all__ = ["Mixed"]

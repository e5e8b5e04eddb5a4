"""How an annotation is checked while testing: an int is a float, as for mypy, and a wrong type is a ``TypeError``."""

from __future__ import annotations

from beartype import BeartypeConf, BeartypeDecorPlace, beartype

CONF = BeartypeConf(
    is_pep484_tower=True,
    claw_is_pep526=False,
    # Nearest to the function: what torch makes of one (a custom operator) is no function any more.
    claw_decor_place_func=BeartypeDecorPlace.FIRST,
    violation_type=TypeError,
)
checked = beartype(conf=CONF)

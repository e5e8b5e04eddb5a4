"""Write the API reference, from the docstrings, to docs/api/."""

from __future__ import annotations

import pkgutil
from pathlib import Path

import pdoc

import polymask

if __name__ == "__main__":
    for name in polymask.__all__:
        # pdoc looks into the module's own names, which are loaded at first use.
        getattr(polymask, name)
    pdoc.render.configure(docformat="google")
    inside = [module.name for module in pkgutil.iter_modules(polymask.__path__, "polymask.")]
    pdoc.pdoc("polymask", *inside, output_directory=Path(__file__).parent / "api")

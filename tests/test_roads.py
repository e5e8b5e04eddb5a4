"""Whole roads of a user, from an empty folder, through the command line as it is installed: scripts in roads/."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.full
@pytest.mark.parametrize("road", sorted(path.stem for path in (HERE / "roads").glob("*.sh")))
def test_a_road_leads_from_an_empty_folder_to_its_end(road: str, tmp_path: Path) -> None:
    readme = (HERE.parent / "README.md").read_text()
    (method,) = re.findall(r"^```python\n(\"\"\".*?)```$", readme, re.MULTILINE | re.DOTALL)
    (tmp_path / "method.txt").write_text(method)
    (tmp_path / "road").mkdir()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "README_METHOD": str(tmp_path / "method.txt"), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        ["bash", "-x", str(HERE / "roads" / f"{road}.sh")],
        cwd=tmp_path / "road", env=env, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-3000:]

"""Pages in a browser: it complains of nothing, and draws something in the light, in the dark and on a telephone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.folders import write_run

from polymask.pages.write import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars")
FLAGS += ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr")
DARK = "--blink-settings=preferredColorScheme=0"

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: its package is called chromium"),
]


def look(page: Path, width: int, height: int, *flags: str) -> tuple[np.ndarray, list[str]]:
    """The page as the browser draws it, and what its console says of it."""
    image = page.with_suffix(".png")
    image.unlink(missing_ok=True)
    call = [str(BROWSER), *FLAGS, *flags, f"--user-data-dir={page.with_suffix('')}-data", f"--screenshot={image}"]
    call += [f"--window-size={width},{height}", page.resolve().as_uri()]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=True)
    return np.array(Image.open(image).convert("L"), np.float64), [x for x in done.stderr.splitlines() if "CONSOLE" in x]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("page") / "run", [f"made/{place}" for place in range(4)])
    return write_report(folder)


def test_the_console_would_say_what_is_refused(tmp_path: Path, page: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(page.read_text().replace("<main>", "<main><img src='https://example.invalid/x.png'>"))
    assert "Content Security Policy" in look(bad, 800, 600)[1][0]


@pytest.mark.parametrize(("width", "height"), [(1200, 3000), (390, 6000)])
def test_no_error_in_the_light_and_in_the_dark(page: Path, width: int, height: int) -> None:
    light, said = look(page, width, height)
    assert said == []
    dark, said = look(page, width, height, DARK)
    assert said == []
    assert light.shape == dark.shape == (height, width)
    # Mostly the colour of the page, and a good deal that is not.
    assert np.median(light) > 230
    assert np.median(dark) < 40
    for image in (light, dark):
        assert 0.02 < (abs(image - np.median(image)) > 60).mean() < 0.5
        # To the right of the text and the pictures the margin is empty: nothing is wider than the window.
        assert (abs(image[:, -4:] - np.median(image)) < 10).all()

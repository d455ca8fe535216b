import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sefe_plugin.asd.build import build
from sefe_plugin.asd.dataset import open_dataset
from sefe_plugin.asd.preview import write_preview
from sefe_plugin.asd.rules import other_styles


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MAGENTA = (255, 0, 255)


@pytest.fixture
def built(tmp_path):
    Image.new("RGB", (600, 400), MAGENTA).save(tmp_path / "picture.png")
    records = [
        {
            "image": "picture.png",
            "conversations": [
                {"from": "human", "value": f"<image>\nWhat is <b id='x'>number</b> {i}?"},
                {"from": "gpt", "value": ["<script>document.title = 'changed'</script>", "a & b", "cat"][i % 3]},
            ],
        }
        for i in range(40)
    ]
    (tmp_path / "data.json").write_text(json.dumps(records))
    build(open_dataset(str(tmp_path / "data.json"), tmp_path), tmp_path / "new.json", 0.8, seed=0)
    return open_dataset(str(tmp_path / "new.json"), tmp_path)


def test_the_page_has_the_wanted_samples_and_no_foreign_markup(built, tmp_path):
    write_preview(built, tmp_path / "page.html", samples=2)
    page = (tmp_path / "page.html").read_text()
    assert page.count("<article") == page.count("<img") == 2 * len(other_styles("short_answer"))
    assert "<script" not in page and "<b id" not in page
    assert "&lt;script&gt;" in page and "a &amp; b" in page
    # An image of 600 x 400 is shown at 320 x 213, one colour: far below the 720 KB of its pixels.
    assert len(page) < 60_000


@pytest.fixture
def text_only(tmp_path):
    records = [
        {"instruction": f"What is {'x' * 200} {i}?", "input": "", "output": ("red", "blue", "green")[i % 3]}
        for i in range(20)
    ]
    (tmp_path / "text.json").write_text(json.dumps(records))
    build(open_dataset(str(tmp_path / "text.json"), tmp_path), tmp_path / "new_text.json", 0.8, seed=0)
    write_preview(open_dataset(str(tmp_path / "new_text.json"), tmp_path), tmp_path / "text.html", samples=1)
    return tmp_path / "text.html"


def test_samples_without_pictures_have_no_column_for_them(built, text_only, tmp_path):
    write_preview(built, tmp_path / "page.html", samples=1)
    seen, bare = ((tmp_path / name).read_text() for name in ("page.html", "text.html"))
    assert seen.count('class="seen"><h3>') == seen.count("<article") == bare.count("<article") == 4
    assert 'class="seen"' not in bare
    # heading, before, after: nothing is empty
    assert bare.count("<div") == 2 * 4
    assert "<div></div>" not in bare + seen


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_narrow_screen_shows_the_columns_one_below_the_other(text_only, tmp_path):
    """On 390 pixels nothing sticks out, and each text has the whole width."""
    look = (
        "<script>const boxes = [...document.querySelectorAll('article div')].map(b => b.getBoundingClientRect());"
        "document.title = [document.documentElement.scrollWidth, Math.min(...boxes.map(b => b.width)),"
        "new Set(boxes.map(b => b.left)).size].join(' ')</script>"
    )
    page = text_only.read_text()
    open_page = re.sub("<meta http-equiv[^>]*>", "", page).replace("</html>", f"{look}</html>")
    # the browser's own window is never so narrow: a frame is
    (tmp_path / "inner.html").write_text(open_page.replace("document.title =", "parent.document.title ="))
    frame = '<iframe src="inner.html" width="390" height="2000"></iframe>'
    (tmp_path / "outer.html").write_text(f"<!DOCTYPE html>{frame}")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    command = [CHROMIUM, *options, f"--user-data-dir={tmp_path / 'c'}", "--disable-web-security"]
    command += ["--virtual-time-budget=3000", (tmp_path / "outer.html").as_uri()]
    dom = subprocess.run(command, check=True, capture_output=True, timeout=120, text=True).stdout
    width, narrowest, columns = re.search(r"<title>([\d.]+) ([\d.]+) (\d+)</title>", dom).groups()
    assert float(width) <= 390
    assert float(narrowest) > 300
    assert columns == "1"


def test_a_dataset_without_rewritten_samples_is_an_error(built, tmp_path):
    with pytest.raises(ValueError, match="no rewritten samples"):
        write_preview(open_dataset(str(tmp_path / "data.json"), tmp_path), tmp_path / "page.html", samples=2)
    assert not (tmp_path / "page.html").exists()


def test_an_image_that_is_missing_is_named(built, tmp_path):
    (tmp_path / "picture.png").unlink()
    write_preview(built, tmp_path / "page.html", samples=1)
    assert (tmp_path / "page.html").read_text().count("picture.png cannot be shown") == 4


def test_images_in_mappings_and_broken_texts_are_shown(built, tmp_path):
    text = (tmp_path / "new.json").read_text().replace('"picture.png"', '{"path": "picture.png"}')
    (tmp_path / "new.json").write_text(text.replace("</b>", "\\ud83d</b>"))
    write_preview(open_dataset(str(tmp_path / "new.json"), tmp_path), tmp_path / "page.html", samples=1)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<img") == 4 and "number?&lt;/b&gt;" in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_real_browser_shows_it(built, tmp_path):
    write_preview(built, tmp_path / "page.html", samples=1)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'c'}"]
    url = (tmp_path / "page.html").as_uri()

    def browse(*more):
        return subprocess.run([CHROMIUM, *options, *more, url], check=True, capture_output=True, timeout=120).stdout

    screenshot = tmp_path / "page.png"
    browse("--window-size=1200,2000", f"--screenshot={screenshot}")
    pixels = np.asarray(Image.open(screenshot).convert("RGB"))
    assert pixels.shape == (2000, 1200, 3)
    magenta = (pixels == MAGENTA).all(-1)
    # Four pictures of 320 x 213 in the left third, each beside texts before and after.
    assert magenta.sum() == pytest.approx(4 * 320 * 213, rel=0.02)
    assert not magenta[:, 420:].any()
    rows = magenta.any(1)
    assert np.count_nonzero(rows[1:] & ~rows[:-1]) == 4
    dark = (pixels < 100).all(-1)
    for columns in (slice(420, 780), slice(800, 1150)):
        assert all(dark[start : start + 100, columns].any() for start in np.flatnonzero(rows[1:] & ~rows[:-1]))
    document = browse("--dump-dom").decode()
    # The sample's script did not run.
    assert "<title>new.json</title>" in document
    assert Path(screenshot).stat().st_size > 10_000

"""An HTML page that shows rewritten samples before and after, with their images."""

import base64
import io
import logging
from collections.abc import Mapping
from html import escape
from pathlib import Path

from sefe_plugin.answers.styles import STYLES
from sefe_plugin.asd.dataset import Dataset
from sefe_plugin.asd.pictures import PictureError, small_picture
from sefe_plugin.files import write_text


logger = logging.getLogger(__name__)

#: Longest side of an image on the page, in pixels.
_SIDE = 320

_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222; }}
h1, h2 {{ overflow-wrap: anywhere; }}
h2 {{ margin: 2em 0 0.5em; border-bottom: 2px solid #ddd; }}
article {{ display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0.4em 1em; padding: 1em 0; }}
article.seen {{ grid-template-columns: minmax(0, 340px) repeat(2, minmax(0, 1fr)); }}
article > h3 {{ grid-column: 1 / -1; }}
article + article {{ border-top: 1px solid #eee; }}
img {{ max-width: 100%; }}
pre {{ font: inherit; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 0.6em; }}
h3 {{ font-size: 0.85em; color: #666; margin: 0 0 0.4em; }}
.answer {{ background: #eef6ee; padding: 0.4em 0.6em; border-left: 3px solid #7a7; }}
.before .answer {{ background: #f4f4f4; border-color: #aaa; }}
@media (max-width: 700px) {{
  body {{ margin: 0.5em auto; }}
  article, article.seen {{ grid-template-columns: minmax(0, 1fr); }}
}}
</style>
<h1>{title}</h1>
<p>{summary}</p>
{sections}
</html>
"""


def write_preview(dataset: Dataset, target: Path, samples: int) -> None:
    """Write one page with the first rewritten samples of each style.

    The page stands alone: images are made small and lie in it, texts are shown as they are and never as HTML, and it
    loads and runs nothing.

    Args:
        dataset: A dataset that `sefe asd build` wrote.
        target: The HTML file.
        samples: How many samples of each style.

    Raises:
        ValueError: Where the dataset has no rewritten samples.
    """
    shown: dict[str, list[str]] = {style: [] for style in STYLES}
    for index in range(len(dataset)):
        origin = dataset.origin(index)
        if origin is not None and len(shown[origin["style"]]) < samples:
            shown[origin["style"]].append(_article(dataset, index, origin))
    if not any(shown.values()):
        raise ValueError(f"{dataset.records.path} has no rewritten samples; write one with `sefe asd build` first")
    sections = [
        f"<section><h2>{escape(style.replace('_', ' '))}</h2>{''.join(articles)}</section>"
        for style, articles in shown.items()
        if articles
    ]
    title = escape(dataset.records.path.name)
    summary = f"{len(dataset)} samples; the first {samples} of each style, before and after."
    page = _PAGE.format(title=title, summary=summary, sections="\n".join(sections))
    # A half of a surrogate pair, which JSON may hold, is no text in UTF-8.
    write_text(target, page.encode(errors="replace").decode())


def _article(dataset: Dataset, index: int, origin: Mapping[str, str]) -> str:
    now = dataset.layout.read(dataset.record(index))
    pictures = _pictures(dataset, index)
    before = _turn(f"before: {origin['native_style']}", origin["question"], origin["answer"])
    after = _turn(f"after, by {origin['generator']}", now.question, now.answer)
    seen, shown = (' class="seen"', f"<div>{pictures}</div>") if pictures else ("", "")
    return (
        f'<article id="sample-{index}"{seen}><h3>sample {index}</h3>{shown}'
        f'<div class="before">{before}</div><div>{after}</div></article>'
    )


def _turn(head: str, question: str, answer: str) -> str:
    return f'<h3>{escape(head)}</h3><pre>{escape(question)}</pre><pre class="answer">{escape(answer)}</pre>'


def _pictures(dataset: Dataset, index: int) -> str:
    try:
        images = dataset.images(index)
    except ValueError as error:
        logger.warning("%s", error)
        return "<p>an image that has no path cannot be shown</p>"
    return "".join(_picture(dataset.media_dir / image) for image in images)


def _picture(file: Path) -> str:
    try:
        small = small_picture(file, _SIDE)
    except PictureError as error:
        logger.warning("%s; --media-dir names the folder of the images.", error)
        return f"<p>{escape(file.name)} cannot be shown</p>"
    content = io.BytesIO()
    small.save(content, "PNG")
    return (
        f'<img alt="{escape(file.name)}" src="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}">'
    )

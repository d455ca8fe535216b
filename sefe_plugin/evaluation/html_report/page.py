"""A page put together: one file that stands alone, loads nothing and runs no script but its own."""

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any


_SCRIPTS = ("elements.js", "matrices.js", "tables.js", "curves.js", "answers.js", "page.js")

#: Signs that could end the data's element or open a comment in it, or that end a line in a script.
_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"}

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; script-src '{script_hash}'; \
style-src '{style_hash}'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>Report</title>
<style>{style}</style>
</head>
<body>
<noscript><p>This page shows its data by a script that lies in it. Allow scripts, or read report.md.</p></noscript>
<main id="page"></main>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def render_page(content: Mapping[str, Any]) -> str:
    """Return a page as HTML.

    Whatever a model or a data set has written stays a text: it stands in the page as JSON without any sign that HTML
    could read, and the page's script puts it into nodes of text.

    Args:
        content: What `page_content` returned.
    """
    style = _packed("page.css")
    script = "".join(map(_packed, _SCRIPTS))
    data = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)
    return _PAGE.format(
        style=style, script=script, data=data, script_hash=_csp_hash(script), style_hash=_csp_hash(style)
    )


def _packed(name: str) -> str:
    return files("sefe_plugin.evaluation.html_report").joinpath(name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"

"""What the site needs beside MkDocs itself; mkdocs.yml names this file.

Example: docs/keys.md links to ../README.md, which lies outside docs/. In the repository such a link works as it is. On
the site the file lies at repository/index.html, and the hook makes the link lead there. Notebooks become pages, too.
"""

import json
import posixpath
import re
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


_OUTSIDE = "repository/"  # where the site keeps files from outside docs/
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:)([^()\s#]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook, and every file outside docs/ that a page links to."""
    root = Path(config.config_file_path).parent
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            files.append(File.generated(config, _page_of(file.src_uri), content=_notebook(file)))
    waiting = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    while waiting:
        page, text = waiting.pop()
        for link in _LINK.findall(text):
            target = _target(page, link)
            uri = _uri(target)
            if uri.startswith(_OUTSIDE) and (root / target).is_file() and not files.get_file_from_path(uri):
                added = File.generated(config, uri, abs_src_path=str(root / target))
                files.append(added)
                if added.is_documentation_page():
                    waiting.append((uri, added.content_string))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links lead to where their files lie on the site; leave those to nowhere, which MkDocs reports."""
    here = page.file.src_uri

    def placed(link: re.Match) -> str:
        uri = _page_of(_uri(_target(here, link[0])))
        return posixpath.relpath(uri, posixpath.dirname(here) or ".") if files.get_file_from_path(uri) else link[0]

    return _LINK.sub(placed, markdown)


class Examples(griffe.Extension):
    """Shows the examples of docstrings as code: Griffe calls such a part "Examples", Google's style "Example"."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """Rename the part."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)


def _target(page: str, link: str) -> str:
    """Return the path in the repository that a link on a page leads to."""
    source = page.removeprefix(_OUTSIDE) if page.startswith(_OUTSIDE) else f"docs/{page}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _uri(target: str) -> str:
    return target.removeprefix("docs/") if target.startswith("docs/") else _OUTSIDE + target


def _page_of(uri: str) -> str:
    return uri.removesuffix(".ipynb") + ".md" if uri.endswith(".ipynb") else uri


def _notebook(file: File) -> str:
    """Return the cells of a notebook as Markdown, below a link to the notebook itself."""
    first, *cells = (_cell(cell) for cell in json.loads(file.content_string)["cells"])
    # not a Markdown link, which would lead to the page
    link = f'<a href="{posixpath.basename(file.src_uri)}" download>Download this page as a notebook</a>'
    return "\n\n".join([first, link, *cells]) + "\n"


def _cell(cell: dict) -> str:
    text = "".join(cell["source"])
    language = "bash" if text.startswith("%%bash") else "python"
    return text if cell["cell_type"] == "markdown" else f"```{language}\n{text}\n```"

"""The site: it builds without a warning and without a network; what pages quote is in the source."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import sefe_plugin


ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
#: Leads every connection to a port where nobody listens.
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
_CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")


def build(source: Path, site: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", source / "mkdocs.yml", "-d", site]
    environment = os.environ | OFFLINE | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    result = build(ROOT, folder)
    assert result.returncode == 0, result.stderr
    return folder


def test_every_page_is_on_the_site(site):
    for page in DOCS.rglob("*.md"):
        assert (site / page.relative_to(DOCS).with_suffix(".html")).is_file(), page


def test_a_page_loads_nothing_from_the_network(site):
    loads = re.compile(
        r"""<(?:script|img|iframe|link(?=[^>]*rel="?(?:stylesheet|preconnect|preload)))\b[^>]*https?:"""
    )
    for page in site.rglob("*.html"):
        assert not loads.findall(page.read_text(encoding="utf-8")), page


def test_links_to_files_outside_docs_lead_to_them(site):
    assert 'href="repository/index.html#what-the-numbers-are"' in (site / "index.html").read_text()
    assert (site / "repository/index.html").is_file()
    # from a page outside docs: back into them, and to a file that is no page
    overview = (site / "repository/index.html").read_text()
    assert 'href="../run_folder.html"' in overview
    assert 'href="recipes/own_sefe_qwen2_5_vl.yaml"' in overview
    shipped = ROOT / "recipes/own_sefe_qwen2_5_vl.yaml"
    assert (site / "repository/recipes/own_sefe_qwen2_5_vl.yaml").read_bytes() == shipped.read_bytes()


def test_the_notebook_is_a_page(site):
    page = (site / "notebooks/quick_start.html").read_text()
    assert 'href="quick_start.ipynb"' in page
    assert (site / "notebooks/quick_start.ipynb").is_file()
    assert "two_tasks.yaml" in page
    assert 'href="notebooks/quick_start.html"' in (site / "index.html").read_text()


def test_broken_links_fail(tmp_path):
    """A site of two pages and the project's own settings, so that it is built in no time."""
    for name in ("mkdocs.yml", "mkdocs_hooks.py"):
        shutil.copy(ROOT / name, tmp_path)
    settings = (tmp_path / "mkdocs.yml").read_text()
    settings = re.sub(r"(?m)^- mkdocstrings:\n( .*\n)*", "", settings[: settings.index("\nnav:")])
    (tmp_path / "mkdocs.yml").write_text(settings)
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# Read me\n")
    (tmp_path / "docs/keys.md").write_text("# Keys\n")
    (tmp_path / "docs/index.md").write_text("# Start\n\n[keys](keys.md#keys), [all](../README.md#read-me)\n")
    sound = build(tmp_path, tmp_path / "site")
    assert sound.returncode == 0, sound.stderr
    broken = ["../recipes/gone.yaml", "gone.md", "keys.md#gone", "../README.md#gone"]
    (tmp_path / "docs/index.md").write_text("# Start\n\n" + "\n".join(f"[x]({link})" for link in broken))
    result = build(tmp_path, tmp_path / "site")
    assert result.returncode == 1
    for link in ("../recipes/gone.yaml", "gone.md", "keys.md#gone", "repository/README.md#gone"):
        assert f"'{link}'" in result.stderr


def test_public_names_are_in_the_api(site):
    page = (site / "api.html").read_text()
    for name in sefe_plugin.__all__:
        found = getattr(sefe_plugin, name)
        assert f'id="{found.__module__}.{name}"' in page, name


def test_the_quick_start_says_what_the_readme_says():
    """Its commands are those of the README, which is the one source of them."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", (DOCS / "index.md").read_text(encoding="utf-8"), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if not line.startswith("sefe report")]
    assert len(commands) >= 2
    for command in commands:
        assert command in readme


def shown(node: ast.AST) -> str | None:
    """A text of the source as a page quotes it, with ... for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


@cache
def texts_of_the_source() -> list[str]:
    # a list: nodes are told apart by their ids, so all must stay
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / "sefe_plugin").rglob("*.py")]
    docstrings, texts = set(), []
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Expr):
            docstrings.add(id(node.value))
        elif (text := shown(node)) is not None and id(node) not in docstrings:
            texts.append(text)
    return texts


def rows(packages: bool) -> list[list[str]]:
    """The rows of the tables of messages: those of this package, or those of others, with a column for the package."""
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    cells = [line.strip("|").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return [row for row in cells if row[0].strip().startswith("`") and len(row) == (4 if packages else 3)]


def message(row: list[str]) -> str:
    return _CODE.search(row[0])[2]


@pytest.mark.parametrize("row", rows(packages=False), ids=message)
def test_quoted_messages_are_in_the_source(row):
    words = re.compile(".*".join(map(re.escape, message(row).split("..."))), re.DOTALL)
    assert any(words.search(text) for text in texts_of_the_source())


@pytest.mark.parametrize("row", rows(packages=True), ids=message)
def test_quoted_messages_of_others_are_in_theirs(row):
    (folder,) = importlib.util.find_spec(row[1].strip()).submodule_search_locations
    files = Path(folder).glob("lib/libc10_cuda.so") if row[1].strip() == "torch" else Path(folder).rglob("*.py")
    assert any(message(row).encode() in file.read_bytes() for file in files)


def test_all_messages_are_read():
    assert len(rows(packages=False)) > 40
    assert len(rows(packages=True)) > 5

"""The table of recipe keys: whole, the same everywhere, and the one that docs/keys.md holds."""

from dataclasses import dataclass, fields

from sefe_plugin.cli import main
from sefe_plugin.files import shipped_folder
from sefe_plugin.methods import methods
from sefe_plugin.methods.base import Method
from sefe_plugin.options import option
from sefe_plugin.recipe import key_table as module
from sefe_plugin.recipe.key_table import key_table
from sefe_plugin.recipe.options import PluginKey, plugin_keys


BEGIN, END = "<!-- begin of `sefe keys` -->\n", "<!-- end of `sefe keys` -->"


def test_the_page_holds_the_table():
    """After a change of a key: put what `sefe keys` prints between the two markers of docs/keys.md."""
    page = (shipped_folder("docs") / "keys.md").read_text(encoding="utf-8")
    _, _, rest = page.partition(BEGIN)
    table, marker, _ = rest.partition(END)
    assert marker
    assert table.strip() == key_table().strip()


def test_the_command_prints_it(capsys):
    assert main(["keys"]) == 0
    assert capsys.readouterr().out == key_table()


def test_every_key_has_one_row_of_six_cells():
    rows = [line for line in key_table().splitlines() if line.startswith("| `")]
    assert {line.split("`")[1] for line in rows} >= {"cl_method", "carry", "asd_ratio", "reglora_weight", "pad_images"}
    assert len({line.split("`")[1] for line in rows}) == len(rows)
    assert all(line.replace("\\|", "").count("|") == 7 for line in rows)


def test_methods_of_other_packages_are_left_out(monkeypatch):
    @dataclass
    class Options:
        l2_weight: float = option(0.01, "Weight of the penalty.", symbol="mu")

    class L2(Method):
        pass

    L2.Options, L2.__module__ = Options, "their_package"
    (declared,) = fields(Options)
    theirs = {"l2_weight": PluginKey("method", declared, float, "l2")}
    before, keys, known = key_table(), {**plugin_keys(), **theirs}, {**methods(), "l2": L2}
    monkeypatch.setattr(module, "plugin_keys", lambda: keys)
    monkeypatch.setattr(module, "methods", lambda: known)
    assert key_table() == before
    L2.__module__ = "sefe_plugin.methods.l2"
    assert "| `l2_weight` | a number | `0.01` | mu | may differ per task | Weight of the penalty. |" in key_table()

"""The rooms of the package and the order in which they may import each other."""

import ast
import re
from pathlib import Path

import pytest

import sefe_plugin


ROOT = Path(sefe_plugin.__file__).parent

#: From the ground up: a room imports rooms before it only. The ground's files stand in one room.
ROOMS = [
    "ground",
    "answers",
    "data",
    "methods",
    "carry",
    "asd",
    "evaluation",
    "benchmarks",
    "recipe",
    "run",
    "compare",
    "plan",
    "hosts",
    "cli",
]

FILES = sorted(ROOT.rglob("*.py"))


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "ground"


def imports_of(file: Path) -> set[str]:
    """The modules of the package that a file imports, at its top and within functions, and those it names as text."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            modules = {module_of(other) for other in FILES}
            found |= {
                whole if (whole := f"{node.module}.{alias.name}") in modules else node.module for alias in node.names
            }
    return {name for name in found if name.split(".")[0] == "sefe_plugin"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: module_of(file))
def test_a_room_imports_only_rooms_before_it(file):
    own = room_of(module_of(file))
    for name in imports_of(file):
        other = room_of(name)
        assert ROOMS.index(other) <= ROOMS.index(own), f"{file} of {own}/ imports {name} of {other}/"
        if other == "hosts":
            assert own in ("hosts", "cli")


def test_every_folder_is_a_room():
    folders = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    assert folders == set(ROOMS) - {"ground"}


def test_no_two_modules_import_each_other_when_they_load():
    """Imports within functions, which wait until they are called, may close a circle; those at the top may not."""
    graph = {}
    for file in FILES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        modules = {module_of(other) for other in FILES}
        found = set()
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sefe_plugin"):
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    found.add(whole if whole in modules else node.module)
        graph[module_of(file)] = found
    done, path = set(), []

    def visit(name: str) -> None:
        assert name not in path, f"a circle of imports: {' -> '.join([*path[path.index(name) :], name])}"
        if name in done:
            return
        path.append(name)
        for other in graph.get(name, ()):
            visit(other)
        path.pop()
        done.add(name)

    for name in graph:
        visit(name)


@pytest.mark.parametrize("method", ["olora", "lota", "ewc"])
def test_only_its_file_the_table_and_arms_name_a_method(method):
    word = re.compile(rf"\b{method}\b", re.IGNORECASE)
    named = {module_of(file) for file in FILES if word.search(file.read_text(encoding="utf-8"))}
    own = {name for name in named if name.startswith(f"sefe_plugin.methods.{method}")}
    other = {"sefe_plugin.methods.reglora.config"} if method == "olora" else set()  # PEFT's initialisation
    assert own
    assert named - own - other <= {"sefe_plugin.methods", "sefe_plugin.compare.arms"}


def test_only_its_folder_and_the_table_name_a_method():
    """A new method is one folder and a line in a table: nothing else of the package knows RegLoRA."""
    named = [
        module_of(file)
        for file in FILES
        if "reglora" in file.read_text(encoding="utf-8").lower()
        and "sefe_plugin.methods.reglora" not in module_of(file)
    ]
    assert sorted(named) == [
        "sefe_plugin",  # the public names
        "sefe_plugin.compare.arms",  # arms of a table are methods
        "sefe_plugin.methods",  # the table
        "sefe_plugin.recipe.keys",  # the key of earlier days
    ]

"""`include`: what a recipe takes of another one, and what is refused."""

from pathlib import Path

import pytest
import yaml

from sefe_plugin.recipe.errors import RecipeError, with_place
from sefe_plugin.recipe.include import include_chain, resolve_includes


def read(file: Path) -> dict:
    return yaml.safe_load(file.read_text())


@pytest.fixture
def write(tmp_path):
    """Writes recipes, given as name -> keys; returns the path of the first."""

    def write(**recipes) -> Path:
        for name, keys in recipes.items():
            file = tmp_path / f"{name}.yaml"
            file.write_text(yaml.safe_dump(keys))
        return tmp_path / f"{next(iter(recipes))}.yaml"

    return write


def test_own_keys_replace_those_of_the_base_as_a_whole(write, tmp_path):
    file = write(
        own={"include": "base.yaml", "seed": 1, "tasks": [{"name": "C"}], "deepspeed": {"b": 2}},
        base={"seed": 0, "lora_rank": 8, "tasks": [{"name": "A"}, {"name": "B"}], "deepspeed": {"a": 1}},
    )
    keys, places = resolve_includes(file, read)
    assert keys == {"seed": 1, "lora_rank": 8, "tasks": [{"name": "C"}], "deepspeed": {"b": 2}}
    assert places == {"lora_rank": tmp_path / "base.yaml"}


def test_the_nearest_file_of_a_chain_wins(write, tmp_path):
    (tmp_path / "deep").mkdir()
    file = write(own={"include": "deep/middle.yaml", "x": "own"})
    (tmp_path / "deep" / "middle.yaml").write_text("include: ../base.yaml\nx: middle\ny: middle\n")
    (tmp_path / "base.yaml").write_text("x: base\ny: base\nz: base\n")
    keys, places = resolve_includes(file, read)
    assert keys == {"x": "own", "y": "middle", "z": "base"}
    assert {key: place.resolve().name for key, place in places.items()} == {"y": "middle.yaml", "z": "base.yaml"}
    assert [place.name for place, _ in include_chain(file, read)] == ["own.yaml", "middle.yaml", "base.yaml"]


def test_a_recipe_without_include_is_as_it_is(write):
    assert resolve_includes(write(own={"seed": 1}), read) == ({"seed": 1}, {})


@pytest.mark.parametrize("value", [None, "", " ", 3, ["a.yaml"], {"a": 1}])
def test_include_names_one_file(write, value):
    with pytest.raises(
        RecipeError, match=r"`include` must be the path of one recipe, from the folder of own\.yaml; got"
    ):
        resolve_includes(write(own={"include": value}), read)


def test_an_absent_base_is_told_with_the_file_that_names_it(write, tmp_path):
    file = write(own={"include": "middle.yaml"}, middle={"include": "gone.yaml"})
    with pytest.raises(RecipeError) as caught:
        resolve_includes(file, read)
    assert caught.value.source == str(tmp_path / "middle.yaml")
    assert caught.value.errors == [f"`include: gone.yaml`: {tmp_path / 'gone.yaml'} does not exist. Mend the path."]


@pytest.mark.parametrize(
    "recipes",
    [{"a": "a.yaml"}, {"a": "b.yaml", "b": "c.yaml", "c": "b.yaml"}, {"a": "b.yaml", "b": "../{folder}/a.yaml"}],
)
def test_a_circle_is_refused(write, tmp_path, recipes):
    file = write(**{name: {"include": base.format(folder=tmp_path.name)} for name, base in recipes.items()})
    with pytest.raises(RecipeError, match=r"`include` goes in a circle: \S+a\.yaml -> "):
        resolve_includes(file, read)


def test_errors_say_where_their_keys_stand():
    places = {"seed": Path("base.yaml"), "lora_rank": Path("base.yaml"), "tasks": Path("more.yaml")}
    assert with_place("`seed` must be 1; got 2.", {}) == "`seed` must be 1; got 2."
    assert with_place("`seed: 2` and `lora_rank`, `seed` differ from `x`.", places).endswith(
        "(`seed` stands in base.yaml, `lora_rank` stands in base.yaml.)"
    )
    assert with_place("`x` is unknown. Set `seed`.", places) == "`x` is unknown. Set `seed`."
    assert with_place("task 1 (A): `name` is required.", places).endswith(" (`tasks` stands in more.yaml.)")
    error = RecipeError("own.yaml", ["`x` is bad.", "`seed` is bad."]).with_places(places)
    assert str(error) == (
        "own.yaml cannot start: 2 errors.\n  - `x` is bad.\n  - `seed` is bad. (`seed` stands in base.yaml.)"
    )

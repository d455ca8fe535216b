"""`sefe new`: five questions, and a recipe that passes the plugin's own check."""

import builtins
import json

import pytest
import yaml
from llamafactory.data.template import TEMPLATES
from PIL import Image

import sefe_plugin.cli.new as new_cli
from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.cli import main
from sefe_plugin.hosts.llamafactory.host import read_recipe
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.methods import methods
from sefe_plugin.recipe.load import load_recipe


LINE = "\nAnswer the question using a single word or phrase."
TALKS = {"formatting": "sharegpt", "columns": {"messages": "conversations"}}


def talk(question: str, answer: str, **columns) -> dict:
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}], **columns}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with data of four tasks, one without a test set."""
    folder = tmp_path / "data"
    folder.mkdir()
    Image.new("RGB", (40, 30), "red").save(folder / "p.png")
    colors, caption = ("red", "blue", "green", "grey"), "A dog runs over a field of {} flowers at night."
    sets = {
        "colors_train": [talk(f"What is {i}?{LINE}", colors[i % 4]) for i in range(20)],
        "colors_test": [{"text": f"What is {i}?{LINE}", "answer": colors[i % 4]} for i in range(4)],
        "truth": [talk(f"<image>\nIs it {i}?", ("Yes", "No")[i % 2], image="p.png") for i in range(20)],
        "truth_val": [{"text": f"Is it {i}?", "answer": ("Yes", "No")[i % 2]} for i in range(4)],
        "captions_train": [talk("Describe it.", caption.format(i)) for i in range(20)],
        "captions_eval": [{"text": "Describe it.", "answer": caption.format(i)} for i in range(4)],
        "general": [talk("Hi!", "Hello.")],
    }
    info = {}
    for name, records in sets.items():
        (folder / f"{name}.json").write_text(json.dumps(records))
        entry = TALKS if "conversations" in records[0] else {"columns": {"prompt": "text", "response": "answer"}}
        columns = {**entry["columns"], **({"images": "image"} if "image" in records[0] else {})}
        info[name] = {"file_name": f"{name}.json", **entry, "columns": columns}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def new(*arguments: str) -> int:
    return main(["new", *arguments])


BASE_ANSWERS = ("--model", str(BASE), "--template", "llava")


def load(name: str):
    return load_recipe(read_recipe(name, []), name, host_keys())


def test_all_defaults_make_a_recipe_that_passes_the_whole_check(here, capsys):
    assert new("mine.yaml", "--yes", *BASE_ANSWERS) == 0
    recipe = load("mine.yaml")
    assert [(task.name, task.dataset, task.test_dataset, task.scorer) for task in recipe.tasks] == [
        ("colors", "colors_train", "colors_test", "short_answer"),
        ("truth", "truth", "truth_val", "yes_no"),
        ("captions", "captions_train", "captions_eval", "none"),
    ]
    assert recipe.arguments["cl_method"] == "reglora"
    assert recipe.arguments["asd_ratio"] == 0.2
    assert [task.overrides.get("asd_ratio") for task in recipe.tasks] == [None, None, 0.0]
    assert recipe.arguments["template"] == "llava"
    assert "image_max_pixels" in recipe.arguments  # of the second task
    assert str(recipe.output_dir) == "runs/mine"
    text, said = (here / "mine.yaml").read_text(), capsys.readouterr().out
    assert "trained as it is: answers of style 'brief_explanation' cannot be shortened by rule" in text
    assert "gold answers of 11 words, which no scorer compares" in text
    assert "truth                        test set: truth_val" in said
    assert "no name says what tests general\n" in said
    assert said.index("sefe plan mine.yaml") < said.index("llamafactory-cli train mine.yaml")
    assert [line[:4] for line in said.splitlines() if " of 5 " in line] == [f"{n} of" for n in range(1, 6)]


def test_options_answer_questions(here):
    answers = ("--dataset_dir", "data", "--tasks", "truth:colors_test:class_name,colors_train", "--method", "olora")
    assert new("mine.yaml", "--yes", *BASE_ANSWERS, *answers, "--hardware", "16bit", "--output_dir", "out/1") == 0
    recipe = load("mine.yaml")
    assert [(t.name, t.test_dataset, t.scorer) for t in recipe.tasks] == [
        ("truth", "colors_test", "class_name"),
        ("colors", "colors_test", "short_answer"),
    ]
    assert recipe.arguments["cl_method"] == "olora"
    assert recipe.arguments["bf16"] is True
    assert recipe.arguments.get("asd_ratio") is None
    assert str(recipe.output_dir) == "out/1"


def test_a_task_may_be_trained_only(here, capsys):
    assert new("mine.yaml", "--yes", *BASE_ANSWERS, "--tasks", "truth,colors_train:none") == 0
    assert "colors: train colors_train, trained only" in capsys.readouterr().out
    assert [(task.test_dataset, task.scorer) for task in load("mine.yaml").tasks] == [
        ("truth_val", "yes_no"),
        (None, None),
    ]


@pytest.mark.parametrize("method", ["sefe", *methods()])
def test_every_method_has_a_recipe_that_passes(here, method):
    assert new("mine.yaml", "--yes", *BASE_ANSWERS, "--tasks", "colors_train,truth", "--method", method) == 0
    assert load("mine.yaml").arguments["cl_method"] == ("reglora" if method == "sefe" else method)


def test_in_4_bit_the_base_stays_as_it_is(here):
    assert new("mine.yaml", "--yes", *BASE_ANSWERS, "--tasks", "colors_train", "--hardware", "4bit") == 0
    arguments = load("mine.yaml").arguments
    assert (arguments["quantization_bit"], arguments["carry"]) == (4, "stack")
    assert "sefe-plugin[qlora]" in (here / "mine.yaml").read_text()


def test_a_package_that_4_bit_needs_is_named_where_it_is_not_here(here, capsys, monkeypatch):
    for found, said in ((None, True), (object(), False)):
        monkeypatch.setattr(new_cli, "find_spec", lambda name, found=found: found)
        assert new(f"{said}.yaml", "--yes", *BASE_ANSWERS, "--tasks", "colors_train", "--hardware", "4bit") == 0
        assert ("needs a package that is not here" in capsys.readouterr().out) == said


def test_of_many_datasets_without_a_test_set_some_are_listed(here, capsys):
    info = json.loads((here / "data" / "dataset_info.json").read_text())
    info |= {f"far{i}": {"hf_hub_url": f"nobody/{i}"} for i in range(50)}
    (here / "data" / "dataset_info.json").write_text(json.dumps(info))
    assert new("mine.yaml", "--yes", *BASE_ANSWERS) == 0
    assert "far6 and 43 more" in capsys.readouterr().out


WRONG = {
    "model": (["--model", "no/such/folder"], "--model`: `model_name_or_path` names the folder"),
    "template": (["--model", str(BASE), "--template", "lava"], "has no template 'lava'. Did you mean `llava`?"),
    "no template": (["--model", "nobody/nothing"], "`--template` is needed"),
    "folder": ([*BASE_ANSWERS, "--dataset-dir", "nowhere"], "nowhere/dataset_info.json does not exist"),
    "task": ([*BASE_ANSWERS, "--tasks", "colours_train,general"], "Did you mean `colors_train`?"),
    "task without a test set": ([*BASE_ANSWERS, "--tasks", "general"], "Write general:TEST"),
    "hub's test set": ([*BASE_ANSWERS, "--tasks", "truth:far"], "the test set 'far' must be a local"),
    "broken entry": ([*BASE_ANSWERS, "--tasks", "odd:truth_val"], "`columns` must be a mapping of names"),
    "task twice": ([*BASE_ANSWERS, "--tasks", "truth,truth"], "the task 'truth' is there 2 times"),
    "no task": ([*BASE_ANSWERS, "--tasks", ","], "name one dataset at least"),
    "scorer": ([*BASE_ANSWERS, "--tasks", "colors_train::yes_no"], "have no gold answer for the scorer 'yes_no'"),
    "method": ([*BASE_ANSWERS, "--method", "reglroa"], "Did you mean `reglora`?"),
    "hardware": ([*BASE_ANSWERS, "--hardware", "gpu"], "must be one of 4bit, 16bit, cpu"),
    "full in 4 bit": ([*BASE_ANSWERS, "--method", "full", "--hardware", "4bit"], "quantization"),
    "blank": ([*BASE_ANSWERS, "--output-dir", "a b"], "must hold no blanks"),
    "comma": ([*BASE_ANSWERS, "--output-dir", "a,b"], "must hold no comma"),
    "taken": ([*BASE_ANSWERS, "--output-dir", "taken"], "taken holds a run already"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_option_is_told_and_nothing_is_written(here, capsys, case):
    options, message = WRONG[case]
    info = json.loads((here / "data" / "dataset_info.json").read_text())
    info |= {"far": {"hf_hub_url": "nobody/far"}, "odd": {"file_name": "truth.json", "columns": "text"}}
    (here / "data" / "dataset_info.json").write_text(json.dumps(info))
    (here / "taken").mkdir()
    (here / "taken" / "manifest.json").write_text("{}")
    assert new("mine.yaml", "--yes", *options) == 1
    assert message in capsys.readouterr().err
    assert not (here / "mine.yaml").exists()


@pytest.fixture
def typed(monkeypatch):
    """Answers questions with texts, one after the other, and then ends the input or stops."""

    def answer(*texts, end=EOFError):
        asked, left = [], list(texts)

        def read(prompt):
            asked.append(prompt.strip())
            if not left:
                raise end
            return left.pop(0)

        monkeypatch.setattr(builtins, "input", read)
        return asked

    return answer


def test_a_wrong_answer_is_asked_again_with_the_reason(here, typed, capsys, monkeypatch):
    # a training in the same process may have set the host's own system text, of any template, to that of its recipe
    for template in TEMPLATES.values():
        monkeypatch.setattr(template, "default_system", "A chat.")
    asked = typed(str(BASE / "gone"), str(BASE), "lava", "", "nowhere", "", "general", "truth", "?", "", "", "", "")
    assert new("mine.yaml") == 0
    names = [prompt.partition(" [")[0].removesuffix(":") for prompt in asked]
    twice = ["model", "template", "dataset-dir", "tasks", "method"]
    assert names == [name for name in twice for _ in range(2)] + ["hardware", "output-dir"]
    said = capsys.readouterr().out
    for reason in ("holds no config.json", "Did you mean `llava`?", "does not exist", "Write general:TEST"):
        assert "Not taken: " in said
        assert reason in said
    assert [task.name for task in load("mine.yaml").tasks] == ["truth"]


def test_records_that_cannot_be_converted_are_told_where_they_are_named(here, typed, capsys):
    (here / "data" / "truth.json").write_text(json.dumps([{"conversations": [3]}]))
    typed("", "truth", "colors_train", "", "", "")
    assert new("mine.yaml", *BASE_ANSWERS) == 0
    assert "Not taken: LLaMA-Factory cannot convert the records of data/truth.json" in capsys.readouterr().out
    assert [task.name for task in load("mine.yaml").tasks] == ["colors"]


@pytest.mark.parametrize(("end", "status"), [(EOFError, 1), (KeyboardInterrupt, 130)])
@pytest.mark.parametrize("answers", [0, 2, 5])
def test_who_stops_gets_no_file(here, typed, capsys, end, status, answers):
    before = sorted(here.rglob("*"))
    typed(*[str(BASE), *[""] * 5][:answers], end=end)
    assert new("mine.yaml") == status
    assert "Stopped. Nothing is written." in capsys.readouterr().err
    assert sorted(here.rglob("*")) == before


def test_no_file_is_overwritten(here, typed, capsys):
    (here / "mine.yaml").write_text("mine: true\n")
    asked = typed()
    assert new("mine.yaml") == 1
    assert "mine.yaml exists, and is not overwritten" in capsys.readouterr().err
    assert not asked
    assert (here / "mine.yaml").read_text() == "mine: true\n"
    assert new("mine", "--yes") == 1
    assert "sefe new mine.yaml" in capsys.readouterr().err


def test_a_recipe_that_fails_the_check_is_not_written(here, capsys, monkeypatch):
    """The whole check is asked last: here somebody takes a file away after the questions."""
    from sefe_plugin.cli.new import _Interview

    ask = _Interview.draft

    def draft(self):
        made = ask(self)
        (here / "data" / "truth.json").unlink()
        return made

    monkeypatch.setattr(_Interview, "draft", draft)
    assert new("mine.yaml", "--yes", *BASE_ANSWERS) == 1
    error = capsys.readouterr().err
    assert "mine.yaml cannot start: 1 error." in error
    assert "truth.json" in error
    assert [file.name for file in here.iterdir()] == ["data"]


def test_the_written_file_is_plain_yaml_with_sections(here):
    new("mine.yaml", "--yes", *BASE_ANSWERS)
    text = (here / "mine.yaml").read_text()
    sections = [line.removeprefix("### ") for line in text.splitlines() if line.startswith("### ")]
    assert sections == ["model", "method", "dataset", "output", "train", "generation"]
    assert yaml.safe_load(text) == read_recipe("mine.yaml", [])

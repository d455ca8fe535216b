"""A hundred bad inputs: each is refused by name, in less than 20 seconds, before anything is trained.

Each row of the tables below says how an input is made, and what the message must hold: the key or file, and the record
where one is at fault. `pytest -m faults tests/faults/test_bad_inputs.py` runs all and prints how it went; a few of
each table always run.
"""

import json
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.hosts.llamafactory import trial_process
from sefe_plugin.hosts.llamafactory.host import read_recipe
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.load import load_recipe
from sefe_plugin.recipe.options import SEQUENCE_KEYS
from sefe_plugin.recipe.single_run import single_run_errors
from sefe_plugin.run.records import RunFolderError
from sefe_plugin.run.runner import run_sequence
from sefe_plugin.run.whole import require_whole


_SECONDS = 20.0
_LINE = "\nAnswer the question using a single word or phrase."

#: Name of a row -> seconds that its refusal took.
_took: dict[str, float] = {}


def talk(question, answer, **columns):
    messages = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"conversations": messages, **columns}


TALKS = [talk(f"<image>\nWhat is at {i}?{_LINE}", ("red", "blue", "green")[i % 3], image="p.png") for i in range(6)]
TESTS = [{"text": f"What is at {i}?{_LINE}", "answer": "red"} for i in range(3)]
INFO = {
    "a": {
        "file_name": "a.json",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "images": "image"},
    },
    "test": {"file_name": "test.json", "columns": {"prompt": "text", "response": "answer"}},
}


class World:
    """A sound recipe with its data in a folder of its own, to be spoilt."""

    def __init__(self, folder: Path):
        self.folder, self.data, self.run = folder, folder / "data", folder / "run"
        self.recipe = folder / "recipe.yaml"
        self.data.mkdir()
        Image.effect_noise((40, 30), 90).convert("RGB").save(self.data / "p.png")
        self.write("a.json", TALKS)
        self.write("test.json", TESTS)
        self.write("dataset_info.json", INFO)
        task = {"dataset": "a", "test_dataset": "test", "scorer": "short_answer"}
        self.keys = {
            "model_name_or_path": str(BASE),
            "template": "llava",
            "default_system": "",
            "cl_method": "reglora",
            "reglora_key_ratio": 0.1,
            "lora_target": "all",
            "dataset_dir": str(self.data),
            "cutoff_len": 256,
            "max_new_tokens": 12,
            "preprocessing_num_workers": 1,
            "report_to": "none",
            "output_dir": str(self.run),
            "tasks": [{"name": "A", **task}, {"name": "B", **task}],
        }
        self.set()

    def write(self, name: str, content) -> None:
        (self.data / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    def set(self, **keys) -> None:
        """Change keys of the recipe."""
        self.keys |= keys
        self.recipe.write_text(yaml.safe_dump(self.keys), encoding="utf-8")

    def set_task(self, **keys) -> None:
        """Change keys of the second task."""
        self.keys["tasks"][1] |= keys
        self.set()


def flip(file: Path, place: int, mask: int = 1) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= mask
    file.write_bytes(bytes(data))


def cut(file: Path, share: float = 0.6) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def folder_instead(file: Path) -> None:
    file.unlink()
    file.mkdir()


def recode(file: Path, encoding: str) -> None:
    file.write_bytes(file.read_text(encoding="utf-8").encode(encoding))


def edit(file: Path, change) -> None:
    """Change a JSON file: `change` gets the content, and returns another or changes it."""
    content = json.loads(file.read_text())
    changed = change(content)
    file.write_text(json.dumps(content if changed is None else changed))


def with_record(world: World, record) -> None:
    world.write("a.json", [*TALKS, record])


def with_test(world: World, record) -> None:
    world.write("test.json", [*TESTS, record])


def with_media(world: World, name: str, spoil=None) -> None:
    with_record(world, talk(f"<image>\nWhat?{_LINE}", "red", image=name))
    if spoil:
        shutil.copy(world.data / "p.png", world.data / name)
        spoil(world.data / name)


RECIPES = {
    "no file": (lambda w: w.recipe.unlink(), "recipe.yaml.*the file does not exist"),
    "a folder": (lambda w: folder_instead(w.recipe), "recipe.yaml.*it cannot be read"),
    "UTF-16": (lambda w: recode(w.recipe, "utf-16"), "recipe.yaml"),
    "Latin-1": (lambda w: w.recipe.write_bytes(b"tasks: 5\nrun_name: \xe9\n"), "recipe.yaml.*it is not in UTF-8"),
    "cut in a word": (lambda w: w.recipe.write_text("tasks: [{name: A"), "recipe.yaml.*it cannot be read"),
    "a list": (lambda w: w.recipe.write_text("- tasks: 5\n"), "recipe.yaml"),
    "a flipped bit": (
        lambda w: flip(w.recipe, w.recipe.read_bytes().index(b"cutoff_len")),
        "`butoff_len` is not a key",
    ),
    "a key twice": (lambda w: w.recipe.write_text("tasks: 5\ntasks: 6\n"), "recipe.yaml.*duplicate key"),
    "a foreign tag": (
        lambda w: w.recipe.write_text("tasks: !!python/object:os.system {}\n"),
        "recipe.yaml.*cannot be",
    ),
    "a number for tasks": (lambda w: w.set(tasks=5), "`tasks` must be a list of at least one mapping"),
    "no tasks": (lambda w: w.set(tasks=None), "`tasks` must be a list"),
    "texts for tasks": (lambda w: w.set(tasks=["A"]), "`tasks` must be a list of at least one mapping"),
    "a list for a benchmark": (lambda w: w.set(benchmark=["coin"]), "`benchmark` must be one of"),
    "a number for a folder": (lambda w: w.set(dataset_dir=5), "`dataset_dir` must be text; got 5"),
    "a number in quotes": (lambda w: w.set(lora_rank="32"), "`lora_rank` must be a whole number; got '32'. Write it"),
    "a batch size in quotes": (
        lambda w: w.set_task(per_device_train_batch_size="4"),
        r"task 2 \(B\): `per_device_train_batch_size` must be a whole number",
    ),
    "no number": (lambda w: w.set(learning_rate=float("nan")), "`learning_rate` must be a number; got nan"),
    "no end": (lambda w: w.set(num_train_epochs=float("inf")), "`num_train_epochs` must be a number; got inf"),
    "a huge number": (lambda w: w.set(seed=10**30), "`seed` must be a whole number.*64 bits"),
    "yes in quotes": (
        lambda w: w.set(disable_gradient_checkpointing="yes"),
        "`disable_gradient_checkpointing` must be",
    ),
    "no without quotes": (lambda w: w.set(save_strategy=False), "`save_strategy` must be one of.*in quotes"),
    "a share as text": (lambda w: w.set(asd_ratio="0.2"), "`asd_ratio` must be a share"),
    "an empty model": (lambda w: w.set(model_name_or_path=""), "`model_name_or_path` is required"),
    "no model": (lambda w: w.set(model_name_or_path=str(w.folder / "gone")), "`model_name_or_path` names the folder"),
    "a null template": (lambda w: w.set(template=None), "`template` is required"),
    "a nested list": (lambda w: w.set(lora_target=[["q_proj"]]), "`lora_target` must be words"),
    "a NUL": (lambda w: w.set(dataset_dir="a\0b"), "`dataset_dir` must be text.*NUL"),
    "a path too long": (lambda w: w.set(dataset_dir="x" * 5000), "dataset_info.json cannot be read"),
    "a list for a scorer": (
        lambda w: w.set_task(scorer=["box"]),
        r"task 2 \(B\): `scorer` is required and must be text",
    ),
    "a scorer that is none": (lambda w: w.set_task(scorer="boxx"), "`scorer` must be one of.*Did you mean `box`"),
    "a name with a slash": (lambda w: w.set_task(name="a/b"), r"task 2 \(a/b\): `name` may hold letters"),
    "a name too long": (lambda w: w.set_task(name="x" * 300), "`name` may hold letters"),
    "the same name twice": (lambda w: w.set_task(name="a"), r"task 2 \(a\): the name 'a' is taken by task 1"),
    "an unknown key": (lambda w: w.set_task(lerning_rate=1.0), r"`lerning_rate` is not a key.*`learning_rate`"),
    "no configuration of DeepSpeed": (lambda w: w.set(deepspeed="gone.json"), "`deepspeed` must be a DeepSpeed conf"),
    "DeepSpeed in no JSON": (lambda w: w.set(deepspeed=str(w.data / "p.png")), "`deepspeed` must be a DeepSpeed conf"),
    "key elements as a number": (lambda w: w.set(reglora_key_elements=5), "`reglora_key_elements` must be words"),
}

DATA = {
    "no description": (lambda w: (w.data / "dataset_info.json").unlink(), "dataset_info.json does not exist"),
    "a list as description": (lambda w: w.write("dataset_info.json", [INFO]), "dataset_info.json must be one mapping"),
    "a cut description": (lambda w: cut(w.data / "dataset_info.json"), "dataset_info.json is no valid JSON"),
    "an empty description": (lambda w: empty(w.data / "dataset_info.json"), "dataset_info.json is no valid JSON"),
    "a folder as description": (
        lambda w: folder_instead(w.data / "dataset_info.json"),
        "dataset_info.json cannot be r",
    ),
    "a description in UTF-16": (
        lambda w: recode(w.data / "dataset_info.json", "utf-16"),
        "dataset_info.json is in UTF-16",
    ),
    "a dataset that is not declared": (lambda w: w.set_task(dataset="aa"), "`dataset`: 'aa' is not declared"),
    "a test set that is not declared": (
        lambda w: w.set_task(test_dataset="tset"),
        "`test_dataset`: 'tset' is not decl",
    ),
    "a text as entry": (lambda w: w.write("dataset_info.json", INFO | {"a": "a.json"}), "`dataset`: the entry 'a'"),
    "columns as a list": (
        lambda w: w.write("dataset_info.json", INFO | {"a": INFO["a"] | {"columns": ["image"]}}),
        "`columns` must be a mapping",
    ),
    "a number as file": (
        lambda w: w.write("dataset_info.json", INFO | {"a": {"file_name": 5}}),
        "`file_name` must be",
    ),
    "no file": (lambda w: (w.data / "a.json").unlink(), "a.json of 'a' does not exist"),
    "a cut file": (lambda w: cut(w.data / "a.json"), "a.json"),
    "an empty file": (lambda w: empty(w.data / "a.json"), "a.json"),
    "a file in UTF-16": (lambda w: recode(w.data / "a.json", "utf-16"), "a.json of 'a' is in UTF-16"),
    "a file with foreign bytes": (lambda w: flip(w.data / "a.json", 60, 0x80), "a.json of 'a' is not in UTF-8"),
    "a number for messages": (lambda w: with_record(w, {"conversations": 5, "image": "p.png"}), "a.json|'a'"),
    "no answer": (lambda w: with_record(w, talk("<image>What?", None, image="p.png")), "'a'.*record 7"),
    "an empty answer": (lambda w: with_record(w, talk("<image>What?", "", image="p.png")), "'a'.*record 7"),
    "a number for an answer": (lambda w: with_record(w, talk("<image>What?", 3, image="p.png")), "a.json.*record 7"),
    "two signs, one picture": (
        lambda w: with_record(w, talk("<image><image>", "red", image="p.png")),
        "'a'.*record 7",
    ),
    "a cut test set": (lambda w: cut(w.data / "test.json"), "`test_dataset`: 'test'"),
    "an empty test set": (lambda w: w.write("test.json", []), "`test_dataset`: 'test' holds no records"),
    "a test record without a gold": (lambda w: with_test(w, {"text": "What?"}), "'test'.*record 4"),
    "a list as gold": (lambda w: with_test(w, {"text": "What?", "answer": ["red"]}), "'test'.*record 4"),
    "a test record that is a text": (lambda w: with_test(w, "What?"), "test.json"),
    "a folder as test set": (lambda w: folder_instead(w.data / "test.json"), "`test_dataset`: 'test'"),
    "golds of another scorer": (lambda w: w.set_task(scorer="box"), "3 of 3 records of 'test'"),
}

MEDIA = {
    "no picture": (lambda w: with_media(w, "gone.png"), "'gone.png'"),
    "a cut picture": (lambda w: with_media(w, "q.png", cut), "'q.png'|q.png"),
    "an empty picture": (lambda w: with_media(w, "q.png", empty), "'q.png'|q.png"),
    "a picture that is none": (lambda w: with_media(w, "a.json"), "'a.json'|a.json"),
    "a folder as picture": (lambda w: with_media(w, "q.png", folder_instead), "'q.png'|q.png"),
    "a name too long": (lambda w: with_media(w, "x" * 9999), "xxxx"),
    "a number as picture": (lambda w: with_media(w, 5), "a.json|'a'"),
}


class Parts:
    """What a run leaves: adapters and key elements of two models, made once."""

    def __init__(self, folder: Path, build_llama, build_reglora):
        from sefe_plugin.carry.stacking import stack_adapters
        from sefe_plugin.methods.reglora import find_reglora_model

        self.folder, self.build = folder, build_reglora
        for name, options in {
            "one": {"seed": 1},
            "two": {"seed": 2},
            "rank": {"r": 5},
            "targets": {"target_modules": ["q_proj"]},
            "share": {"reglora_key_ratio": 0.3},
            "wide": {"base": _wide_llama()},
        }.items():
            place = folder / name
            model = build_reglora(**{"reglora_key_ratio": 0.1, **options})
            model.save_pretrained(place)
            find_reglora_model(model).save_key_elements(place / "key_elements.safetensors")
        stack_adapters([folder / "one", folder / "two"], folder / "stacked")
        build_llama().save_pretrained(folder / "merged")


def _wide_llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, num_key_value_heads=2, **sizes))


@pytest.fixture(scope="module")
def parts(tmp_path_factory, tiny_llama, tiny_reglora):
    return Parts(tmp_path_factory.mktemp("parts"), tiny_llama, tiny_reglora)


class Run(World):
    """A run folder whose first task of two is complete, as a finished task leaves it."""

    def __init__(self, folder: Path, parts: Parts):
        super().__init__(folder)
        self.task = self.run / "1_A"
        shutil.copytree(parts.folder / "one", self.task)
        shutil.copytree(parts.folder / "merged", self.task / "merged")
        shutil.copytree(parts.folder / "stacked", self.task / "stacked")
        self.elements, self.manifest = self.task / "key_elements.safetensors", self.run / "manifest.json"
        self.scores, self.steps = self.task / "scores.json", self.task / "steps.json"
        self.scores.write_text('{"A": {"accuracy": 50.0, "format": 100.0, "count": 3}}')
        self.steps.write_text('["trained", "scored", "carried"]')
        self.parts = parts.folder
        self.set()

    def set(self, **keys) -> None:
        super().set(**keys)
        if hasattr(self, "manifest"):
            recipe = load_recipe(read_recipe(self.recipe, []), "recipe.yaml", host_keys())
            complete = [{"name": "A", "folder": "1_A", "seconds": 1.0}]
            content = {"version": 2, "recipe": recipe.to_dict(), "complete": complete}
            self.manifest.write_text(json.dumps(content))


def swap(source: str):
    """Put the key elements of another model in the place of the task's."""
    return lambda w: shutil.copy(w.parts / source / "key_elements.safetensors", w.elements)


def stacked(spoil):
    """Continue a stack, of which `spoil` harms a file."""

    def make(w):
        w.set(carry="stack")
        spoil(w.task / "stacked")

    return make


RUNS = {
    "a cut manifest": (lambda w: cut(w.manifest), "manifest.json is damaged"),
    "an empty manifest": (lambda w: empty(w.manifest), "manifest.json is damaged"),
    "a list as manifest": (lambda w: w.manifest.write_text("[]"), "manifest.json is damaged"),
    "a folder as manifest": (lambda w: folder_instead(w.manifest), "manifest.json is damaged"),
    "a manifest of another version": (lambda w: edit(w.manifest, lambda c: c | {"version": 1}), "format version 1"),
    "a manifest without a recipe": (
        lambda w: edit(w.manifest, lambda c: c | {"recipe": 5}),
        "manifest.json is damaged",
    ),
    "complete as a number": (lambda w: edit(w.manifest, lambda c: c | {"complete": 5}), "manifest.json is damaged"),
    "a complete task of another name": (
        lambda w: edit(w.manifest, lambda c: c["complete"][0].update(name="C")),
        "manifest.json is damaged",
    ),
    "tasks in another order": (
        lambda w: edit(w.manifest, lambda c: c["recipe"]["tasks"].reverse()),
        "manifest.json|anoth",
    ),
    "no scores": (lambda w: w.scores.unlink(), "A.jsonl is missing, without which .*scores.json cannot be written"),
    "cut scores": (lambda w: cut(w.scores), "scores.json is damaged"),
    "scores as a list": (lambda w: w.scores.write_text("[50.0]"), "scores.json is damaged: it must hold a mapping"),
    "scores as texts": (lambda w: w.scores.write_text('{"A": {"accuracy": "50"}}'), "scores.json is damaged"),
    "scores above 100": (
        lambda w: w.scores.write_text('{"A": {"accuracy": 500, "format": 1}}'),
        "scores.json is damaged",
    ),
    "no key elements": (lambda w: w.elements.unlink(), "key_elements.safetensors: no such file"),
    "empty key elements": (lambda w: empty(w.elements), "key_elements.safetensors: damaged"),
    "cut key elements": (lambda w: cut(w.elements), "key_elements.safetensors: damaged"),
    "a flipped bit in key elements": (lambda w: flip(w.elements, -20), "key_elements.safetensors: damaged .*checksum"),
    "a flipped bit in their head": (
        lambda w: flip(w.elements, w.elements.read_bytes().index(b"adapter_sha256") + 20),
        "key_elements.safetensors: damaged",
    ),
    "a folder as key elements": (lambda w: folder_instead(w.elements), "key_elements.safetensors"),
    "an adapter as key elements": (
        lambda w: shutil.copy(w.task / "adapter_model.safetensors", w.elements),
        "key_elements.safetensors: not a file of key elements",
    ),
    "key elements of another M": (swap("share"), "key_elements.safetensors: found with reglora_key_ratio 0.3"),
    "key elements of another run or task": (swap("two"), "key_elements.safetensors was found in another adapter"),
    "key elements of another model": (swap("wide"), "key_elements.safetensors was found in another adapter"),
    "a cut adapter": (
        lambda w: cut(w.task / "adapter_model.safetensors"),
        "1_A/adapter_model.safetensors: absent, damaged",
    ),
    "no merged model": (lambda w: shutil.rmtree(w.task / "merged"), "merged"),
    "a cut merged model": (
        lambda w: cut(w.task / "merged" / "model.safetensors"),
        "merged/model.safetensors: absent, dam",
    ),
    "a cut configuration of it": (
        lambda w: cut(w.task / "merged" / "config.json"),
        "merged/config.json: absent, or not",
    ),
    "a cut stack": (
        stacked(lambda f: cut(f / "adapter_model.safetensors")),
        "stacked/adapter_model.safetensors: absent",
    ),
    "a stack without configuration": (
        stacked(lambda f: (f / "adapter_config.json").unlink()),
        "stacked/adapter_config.js",
    ),
    "a stack of another rank": (
        stacked(lambda f: edit(f / "adapter_config.json", lambda c: c | {"r": 4})),
        "stacked/adapter_model.safetensors: .*but `r` in adapter_config.json is 4",
    ),
    "a stack that is no LoRA": (
        stacked(lambda f: edit(f / "adapter_config.json", lambda c: c | {"peft_type": "IA3"})),
        "stacked/adapter_config.json: `peft_type` must be 'LORA'",
    ),
}


def steps(content: str):
    """Leave the second task half done, with these steps."""

    def make(w):
        (w.run / "2_B").mkdir()
        (w.run / "2_B" / "steps.json").write_text(content)

    return make


RUNS |= {
    "cut steps": (steps('["trained", "sco'), "2_B/steps.json is damaged"),
    "steps as a number": (steps("5"), "2_B/steps.json is damaged: it must hold a list"),
    "an unknown step": (steps('["brained"]'), "2_B/steps.json is damaged"),
}


def single(parts, **keys):
    """Check a single run with keys of the plugin, as before the host is loaded."""
    found = single_run_errors({"cl_method": "reglora", "reglora_key_ratio": 0.1, **keys}, host_keys())
    if found:
        raise RecipeError("recipe.yaml", found)


def loaded(parts, *names):
    """Load key elements into the model of `one`."""
    from sefe_plugin.methods.reglora import find_reglora_model

    model = find_reglora_model(parts.build(seed=1, reglora_key_ratio=0.1))
    model.load_key_elements([parts.folder / name / "key_elements.safetensors" for name in names])


def attached(parts, folder, name):
    import torch

    from sefe_plugin.carry.stacking import attach_frozen

    attach_frozen(_wide_llama(), folder / name, torch.float32)


def stacked_together(parts, folder, *names):
    from sefe_plugin.carry.stacking import stack_adapters

    stack_adapters([folder / name for name in names], folder / "new")


def spoilt(folder, name, spoil):
    spoil(folder / name)
    return str(folder / name)


ADAPTERS = {
    "foreign matrices": (
        lambda p, f: loaded(p, "targets"),
        "key_elements.safetensors: matrix '.*' is adapted in the model",
    ),
    "foreign shapes": (lambda p, f: loaded(p, "wide"), "key_elements.safetensors: matrix '.*' has shape"),
    "the same file twice": (lambda p, f: loaded(p, "two", "two"), "key_elements.safetensors is given twice"),
    "another M in a single run": (
        lambda p, f: single(p, reglora_key_elements=[str(f / "share" / "key_elements.safetensors")]),
        "`reglora_key_elements`: .*found with `reglora_key_ratio: 0.3`; got 0.1",
    ),
    "files of two models": (
        lambda p, f: single(
            p, reglora_key_elements=[str(f / n / "key_elements.safetensors") for n in ("one", "wide")]
        ),
        "`reglora_key_elements`: .*wide/key_elements.safetensors: its matrices are not those of .*one/key_elements",
    ),
    "a cut file in a single run": (
        lambda p, f: single(p, reglora_key_elements=spoilt(f, "one/key_elements.safetensors", cut)),
        "`reglora_key_elements`: .*one/key_elements.safetensors: damaged",
    ),
    "an absent file in a single run": (
        lambda p, f: single(p, reglora_key_elements=str(f / "gone")),
        "`reglora_key_elements`: the file .*gone does not exist",
    ),
    "a cut adapter to go on with": (
        lambda p, f: single(p, adapter_name_or_path=str(Path(spoilt(f, "one/adapter_model.safetensors", cut)).parent)),
        "`adapter_name_or_path`: .*one/adapter_model.safetensors: absent, damaged",
    ),
    "an adapter of two trainings": (
        lambda p, f: single(
            p,
            adapter_name_or_path=str(
                shutil.copy(f / "rank/adapter_model.safetensors", f / "one/adapter_model.safetensors").parent
            ),
        ),
        "`adapter_name_or_path`: .*has shape .*but `r` in adapter_config.json is 3",
    ),
    "a cut stack in a single run": (
        lambda p, f: single(p, stacked_adapter=str(Path(spoilt(f, "stacked/adapter_model.safetensors", cut)).parent)),
        "`stacked_adapter`: .*stacked/adapter_model.safetensors: absent, damaged",
    ),
    "no stack in a single run": (
        lambda p, f: single(p, stacked_adapter=str(f)),
        "`stacked_adapter`: .* holds no adapter",
    ),
    "adapters of two models": (
        lambda p, f: stacked_together(p, f, "one", "wide"),
        "one are of different models|wide and",
    ),
    "adapters of other matrices": (lambda p, f: stacked_together(p, f, "one", "targets"), "change different matrices"),
    "a cut configuration": (
        lambda p, f: (spoilt(f, "two/adapter_config.json", cut), stacked_together(p, f, "one", "two")),
        "two/adapter_config.json: absent, or not valid JSON",
    ),
    "a rank as text": (
        lambda p, f: (
            edit(f / "two/adapter_config.json", lambda c: c | {"r": "3"}),
            stacked_together(p, f, "one", "two"),
        ),
        "two/adapter_config.json: `r` must be a whole number above 0; got '3'",
    ),
    "a stack of another model": (
        lambda p, f: attached(p, f, "stacked"),
        r"stacked: .* has shape \(.*\) in the adapter",
    ),
    "an adapter in the place of a stack": (lambda p, f: attached(p, f, "wide"), "wide is no stacked adapter"),
}


REPLY = {"index": 1, "question": "What color is it, part 1?", "text": "It is red all over."}
REPLIES = {
    "no JSON": ("I cannot do that.", "entry 1: is missing"),
    "an empty reply": ("", "entry 1: is missing"),
    "a cut reply": (json.dumps([REPLY])[:40], "entry 1: is missing"),
    "endless brackets": ('{"a":' * 3000 + "}", "entry 1: is missing"),
    "another index": (json.dumps([REPLY | {"index": 7}]), "entry 1: is missing"),
    "another question": (json.dumps([REPLY | {"question": "Who?"}]), "entry 1: does not repeat its question"),
    "a list for a text": (json.dumps([REPLY | {"text": ["It is red."]}]), "entry 1: lacks text"),
    "markup": (json.dumps([REPLY | {"text": "It is <|im_end|> red all over."}]), "entry 1: has markup"),
    "control signs": (json.dumps([REPLY | {"text": "It is red\x07 all over."}]), "entry 1: has markup or control"),
    "one word": (json.dumps([REPLY | {"text": "red"}]), "entry 1: must have 3 to 200 words, has 1"),
}


class _NoHost:
    def __getattr__(self, name):
        raise AssertionError("a training was started")


def trial(recipe, tasks):
    from sefe_plugin.hosts.llamafactory.trial import try_sequence

    return try_sequence(recipe, tasks, here=True, bar=sys.stderr)


@pytest.fixture(scope="module")
def loaded_host(tmp_path_factory):
    """Try a sound recipe, so that the time of a row is that of its refusal, without that of loading the host."""
    world = World(tmp_path_factory.mktemp("sound"))
    found = trial(load_recipe(read_recipe(world.recipe, []), "recipe.yaml", host_keys()), [0, 1])
    assert found["errors"] == []
    assert [task["errors"] for task in found["tasks"].values()] == [[], []]


@pytest.fixture
def refuse(monkeypatch, tmp_path_factory, loaded_host):
    """Starts a recipe as `llamafactory-cli train` does, in this process, up to where a training would start."""
    monkeypatch.setattr(trial_process, "HF_HOME", str(tmp_path_factory.mktemp("home")))

    def start(file: Path) -> None:
        keys = read_recipe(file, [])
        assert any(key in keys for key in SEQUENCE_KEYS)
        recipe = load_recipe(keys, str(file), host_keys())
        require_whole(recipe)
        if not recipe.output_dir.exists():
            trial_process.require_trial(recipe, print, trial)
        run_sequence(recipe, _NoHost(), host_keys(), print)

    return start


def check(name: str, expected: str, act, *errors) -> None:
    """Check that an act is refused with the expected words, soon."""
    started = time.monotonic()
    with pytest.raises(errors) as caught:
        act()
    seconds = time.monotonic() - started
    message = str(caught.value)
    assert re.search(expected, message, re.DOTALL), message
    assert seconds < _SECONDS
    assert len(message) < 25_000
    _took[name] = seconds


def rows(table: dict, *short: str):
    """Parametrise over a table; only the rows that are named always run."""
    assert {*short} <= table.keys()
    marked = [name if name in short else pytest.param(name, marks=pytest.mark.faults) for name in table]
    return pytest.mark.parametrize("row", marked)


@rows(RECIPES, "a folder", "Latin-1", "a number for tasks", "a batch size in quotes", "a nested list")
def test_recipes(tmp_path, refuse, row):
    make, expected = RECIPES[row]
    world = World(tmp_path)
    make(world)
    check(f"recipe: {row}", expected, lambda: refuse(world.recipe), RecipeError)
    assert not world.run.exists()


@rows(DATA, "a list as description", "a cut file", "a list as gold")
def test_data(tmp_path, refuse, row):
    make, expected = DATA[row]
    world = World(tmp_path)
    make(world)
    check(f"data: {row}", expected, lambda: refuse(world.recipe), RecipeError)
    assert not world.run.exists()


@rows(MEDIA, "a cut picture")
def test_media(tmp_path, refuse, row):
    make, expected = MEDIA[row]
    world = World(tmp_path)
    make(world)
    check(f"media: {row}", expected, lambda: refuse(world.recipe), RecipeError)
    assert not world.run.exists()


@rows(RUNS, "a cut manifest", "cut steps", "a flipped bit in key elements", "a cut merged model")
def test_run_folders(tmp_path, parts, refuse, row):
    make, expected = RUNS[row]
    world = Run(tmp_path, parts)
    make(world)
    before = {file: file.read_bytes() for file in world.run.rglob("*") if file.is_file() and file.name != ".lock"}
    check(f"run folder: {row}", expected, lambda: refuse(world.recipe), RunFolderError)
    after = {file: file.read_bytes() for file in world.run.rglob("*") if file.is_file() and file.name != ".lock"}
    assert after == before


def test_a_run_folder_that_is_not_spoilt_is_continued(tmp_path, parts, refuse):
    """So that the rows above are refused for what they spoil."""
    for place, keys in (("merge", {}), ("stack", {"carry": "stack"})):
        (tmp_path / place).mkdir()
        world = Run(tmp_path / place, parts)
        world.set(**keys)
        with pytest.raises(AssertionError, match="a training was started"):
            refuse(world.recipe)


@rows(ADAPTERS, "foreign shapes", "a cut adapter to go on with", "a stack of another model")
def test_adapters_and_key_elements(tmp_path, parts, row):
    act, expected = ADAPTERS[row]
    folder = shutil.copytree(parts.folder, tmp_path / "parts")
    check(f"adapter: {row}", expected, lambda: act(parts_in(parts, folder), folder), ValueError)


def parts_in(parts: Parts, folder: Path) -> Parts:
    copied = object.__new__(Parts)
    copied.folder, copied.build = folder, parts.build
    return copied


@rows(REPLIES, "a list for a text")
def test_replies(row):
    from sefe_plugin.answers.styles import BRIEF
    from sefe_plugin.asd.items import Item
    from sefe_plugin.asd.writer.questions import Entry
    from sefe_plugin.asd.writer.replies import read_json_reply

    reply, expected = REPLIES[row]
    item = Item("<image>\n", "What color is it, part 1?", "red")

    def read():
        found, faults = read_json_reply(reply, {1: Entry(item, BRIEF, False, item.question)})
        assert found == {}
        raise ValueError("\n".join(faults))

    check(f"reply: {row}", expected, read, ValueError)


@pytest.mark.faults
def test_how_it_went(capsys):
    """Print the table; it runs last in this file."""
    tables = {
        "recipe": RECIPES,
        "data": DATA,
        "media": MEDIA,
        "run folder": RUNS,
        "adapter": ADAPTERS,
        "reply": REPLIES,
    }
    with capsys.disabled():
        print("\n\n| input | rows | refused by name | slowest |\n| --- | --- | --- | --- |")
        for kind, table in tables.items():
            took = {name: seconds for name, seconds in _took.items() if name.startswith(f"{kind}: ")}
            slowest = max(took, key=took.get, default="none")
            print(f"| {kind} | {len(table)} | {len(took)} | {took.get(slowest, 0):.1f} s, {slowest} |")
        print(f"| all | {sum(map(len, tables.values()))} | {len(_took)} | {max(_took.values(), default=0):.1f} s |")
    assert sum(map(len, tables.values())) >= 100

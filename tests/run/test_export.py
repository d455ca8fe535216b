"""What `sefe export` writes: a model that loads by the code in its own card, without the plugin where it can."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, RepoUrl
from huggingface_hub.utils import filter_repo_objects

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.cli import main
from sefe_plugin.files import read_json, write_json
from sefe_plugin.hosts.llamafactory.host import read_recipe
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.recipe.load import load_recipe
from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.records import RunFolderError


VERSIONS = {"sefe-plugin": "0.0.9", "torch": "2.0", "python": "3.11"}

#: What a training leaves in a task's folder that is no part of a model.
LEFT = (
    "training_args.bin",
    "trainer_state.json",
    "log.txt",
    "inputs.json",
    "README.md",
    "task.yaml",
    "all_results.json",
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory, tiny_llama) -> Path:
    """A text model with its tokenizer."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("llama")
    tiny_llama().save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)
    return folder


def leave_run(path: Path, carry: str, base: Path, complete: int = 2, **changes) -> Path:
    """Write a run of two tasks up to what its tasks have trained; return the folder of the last complete one."""
    tasks = [
        {"name": name, "dataset": f"{name}_train", "test_dataset": f"{name}_test", "scorer": "yes_no"} for name in "AB"
    ]
    recipe = {
        "cl_method": "lora",
        "carry": carry,
        "finetuning_type": "lora",
        "template": "llava",
        "model_name_or_path": str(base),
        "output_dir": str(path),
        "benchmark": None,
        "tasks": tasks,
        **changes,
    }
    folder = RunFolder(path)
    records = []
    for index, name in enumerate("AB"[:complete]):
        place = folder.task_folder(index, name)
        place.mkdir(parents=True)
        scores = {one: {"accuracy": 60.0 + 5 * index, "format": 100.0, "count": 50, "stderr": 7.0} for one in "AB"}
        write_json(place / "scores.json", {one: scores[one] for one in "AB"[: index + 1]})
        for file in LEFT:
            (place / file).write_text("{}")
        records.append({"name": name, "folder": place.name, "seconds": 1.0, "versions": VERSIONS})
    folder.complete_task(recipe, records)
    return place if complete else path


def save_adapter(model, config, folder: Path) -> None:
    from peft import get_peft_model

    get_peft_model(model, config).save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)


def lora():
    from peft import LoraConfig

    return LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)


def export(run: Path, out: Path, *options: str) -> int:
    return main(["export", str(run), "--out", str(out), *options])


#: What makes every import of the plugin fail, whatever the start-up hook has imported.
BLOCKED = """import sys
for name in [name for name in sys.modules if name.startswith("sefe_plugin")]:
    del sys.modules[name]
sys.modules["sefe_plugin"] = None
"""


def load(out: Path, base: Path, python: str, with_plugin: bool = False) -> subprocess.CompletedProcess:
    """Run the code of the card in another process, there; return what it is that it has loaded."""
    code = re.search(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)[1]
    code = code.replace(f"path/to/{base.name}", str(base)) + "\nprint(type(model).__name__)\n"
    plugin = str(Path(__file__).parents[2]) if with_plugin else ""
    environment = os.environ | {"SEFE_PLUGIN_DISABLE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": plugin}
    command = [python, "-c", code if with_plugin else BLOCKED + code]
    return subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True)


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


PROCESSOR = {"chat_template.jinja", "processor_config.json", "tokenizer.json", "tokenizer_config.json"}
OURS = {"README.md", "recipe.yaml"}


def test_a_merged_model_loads_in_transformers_by_the_code_of_its_card(tmp_path, plain_python, capsys):
    place = leave_run(tmp_path / "run", "merge", BASE)
    shutil.copytree(BASE, place / "merged")
    (place / "merged/held_out.json").unlink()
    assert export(tmp_path / "run", tmp_path / "out") == 0
    assert "holds the model of 2 tasks" in capsys.readouterr().out
    assert names(tmp_path / "out") == {*names(place / "merged"), *OURS}
    loaded = load(tmp_path / "out", BASE, plain_python)
    assert loaded.stdout == "LlavaForConditionalGeneration\n", loaded.stderr[-2000:]


def test_a_stacked_adapter_loads_in_peft_by_the_code_of_its_card(tmp_path, llama, tiny_llama, plain_python, capsys):
    place = leave_run(tmp_path / "run", "stack", llama)
    save_adapter(tiny_llama(), lora(), place / "stacked")
    for file in llama.glob("tokenizer*"):
        shutil.copy(file, place)
    (place / "reglora_config.json").write_text("{}")
    assert export(tmp_path / "run", tmp_path / "out") == 0
    assert "PEFT loads it without sefe-plugin" in capsys.readouterr().out
    adapter = {"adapter_config.json", "adapter_model.safetensors"}
    assert names(tmp_path / "out") == adapter | OURS | {file.name for file in llama.glob("tokenizer*")}
    loaded = load(tmp_path / "out", llama, plain_python)
    assert loaded.stdout.startswith("PeftModel"), loaded.stderr[-2000:]


def test_a_model_that_its_task_has_trained_is_exported_without_what_the_training_left(tmp_path, llama):
    place = leave_run(tmp_path / "run", "replace", llama, cl_method="full", finetuning_type="full")
    shutil.copytree(llama, place, dirs_exist_ok=True)
    for folder in ("checkpoint-3", "predictions"):
        (place / folder).mkdir()
    assert export(tmp_path / "run", tmp_path / "out") == 0
    assert names(tmp_path / "out") == names(llama) | OURS
    assert (tmp_path / "out/README.md").read_text().startswith("---\nlibrary_name: transformers")


def test_an_adapter_type_of_the_plugin_says_that_it_needs_it(tmp_path, llama, tiny_llama, plain_python, capsys):
    from sefe_plugin import MoeLoraConfig

    place = leave_run(tmp_path / "run", "continue", llama, cl_method="moelora")
    save_adapter(tiny_llama(), MoeLoraConfig(r=8, target_modules=["q_proj"]), place)
    for file in llama.glob("tokenizer*"):
        shutil.copy(file, place)
    assert export(tmp_path / "run", tmp_path / "out") == 0
    assert "whoever loads it needs sefe-plugin" in capsys.readouterr().out
    assert "It needs sefe-plugin to be loaded" in (tmp_path / "out/README.md").read_text()
    assert "sefe_plugin" in load(tmp_path / "out", llama, plain_python).stderr
    loaded = load(tmp_path / "out", llama, plain_python, with_plugin=True)
    assert loaded.stdout.startswith("PeftModel"), loaded.stderr[-2000:]


@pytest.fixture
def merged(tmp_path, llama) -> Path:
    """A finished run with `carry: merge`."""
    place = leave_run(tmp_path / "run", "merge", llama, seed=11, learning_rate=1e-4)
    shutil.copytree(llama, place / "merged")
    return tmp_path / "run"


def test_the_card_says_what_the_model_is(merged, tmp_path):
    assert export(merged, tmp_path / "out") == 0
    card = ModelCard.load(tmp_path / "out/README.md")
    data = card.data.to_dict()
    assert "base_model" not in data  # a local one is none of the hub's
    assert (data["library_name"], data["license"]) == ("transformers", "unknown")
    assert {"sefe-plugin", "llama-factory", "lora"} <= set(data["tags"])
    assert [(one.dataset_name, one.metric_value) for one in card.data.eval_results] == [("A", 65.0), ("B", 65.0)]
    assert re.search(r"\| A +\| A_train +\| A_test +\| yes_no +\| +60.00 \| +65.00 \| +7.00 \| +50 \|", card.text)
    assert re.search(r"\| BWT +\| +2.50 \|", card.text)
    assert "Seed 11. Versions: sefe-plugin 0.0.9, torch 2.0, python 3.11." in card.text
    assert "Unknown: nothing beside the base says what its licence is." in card.text
    assert str(tmp_path) not in (tmp_path / "out/README.md").read_text()


def test_the_licence_is_the_bases_own(tmp_path, llama):
    base = tmp_path / "base"
    shutil.copytree(llama, base)
    place = leave_run(tmp_path / "run", "merge", base)
    shutil.copytree(llama, place / "merged")
    for number, (file, text, licence) in enumerate(
        (
            ("config.json", '{"license": "mit"}', "mit"),
            ("README.md", "---\nlicense: other\nlicense_name: mine\n---\n", "other"),
            ("README.md", "---\nlicense: [\n---\n", "mit"),  # no YAML: the configuration decides
        )
    ):
        (base / file).write_text(text)
        assert export(tmp_path / "run", tmp_path / f"out{number}") == 0
        assert ModelCard.load(tmp_path / f"out{number}/README.md").data.license == licence


def test_a_base_of_the_hub_is_named_and_its_cached_card_read(tmp_path, llama, monkeypatch):
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: llama2\n---\n")
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache",
        lambda model, name, revision: str(card) if (model, name, revision) == ("owner/m", "README.md", "v1") else None,
    )
    place = leave_run(tmp_path / "run", "merge", "owner/m", model_revision="v1")
    shutil.copytree(llama, place / "merged")
    assert export(tmp_path / "run", tmp_path / "out") == 0
    data = ModelCard.load(tmp_path / "out/README.md").data.to_dict()
    assert (data["base_model"], data["base_model_relation"], data["license"]) == ("owner/m", "finetune", "llama2")


def test_the_recipe_beside_it_is_the_runs_own(merged, tmp_path):
    assert export(merged, tmp_path / "out") == 0
    keys = read_recipe(tmp_path / "out/recipe.yaml", [])
    again = load_recipe(keys, "recipe.yaml", host_keys(), check_data=False)
    assert again.to_dict() == read_json(merged / "manifest.json")["recipe"] | {"output_dir": "runs/run_again"}
    assert "again, into `runs/run_again`, where base and data are in" in (tmp_path / "out/README.md").read_text()


def test_the_recipe_of_a_benchmark_names_it_and_the_order(tmp_path, llama):
    order = ["TextVQA", "ScienceQA", "ImageNet", "GQA", "VizWiz", "Grounding", "VQAv2", "OCRVQA"]
    keys = {"benchmark": "minicoin", "task_order": order, "model_name_or_path": str(BASE), "output_dir": "x"}
    recipe = load_recipe({**keys, "template": "llava", "cl_method": "lora"}, "x", host_keys()).to_dict()
    place = leave_run(tmp_path / "run", "merge", BASE, complete=1)
    shutil.copytree(llama, place / "merged")
    write_json(place / "scores.json", {"TextVQA": {"accuracy": 1.0, "format": 1.0}})
    place.rename(tmp_path / "run/1_TextVQA")
    RunFolder(tmp_path / "run").complete_task(recipe, [{"name": "TextVQA"}])
    assert export(tmp_path / "run", tmp_path / "out") == 0
    again = load_recipe(yaml.safe_load((tmp_path / "out/recipe.yaml").read_text()), "x", host_keys())
    assert again.to_dict() == recipe | {"output_dir": "runs/x_again"}


def test_the_model_of_an_unfinished_run_says_so(tmp_path, llama, capsys):
    place = leave_run(tmp_path / "run", "merge", llama, complete=1)
    shutil.copytree(llama, place / "merged")
    assert export(tmp_path / "run", tmp_path / "out") == 0
    said = "The run is unfinished: this is the model of the first 1 of 2 tasks."
    assert said in capsys.readouterr().out
    assert said in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(
    ("carry", "complete", "said"),
    [
        ("none", 2, "no single model: with `carry: none` each task was trained alone"),
        ("merge", 0, "has no complete task yet"),
        ("merge", 2, "cannot be exported: .*adapter_config.json: absent"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path, llama, capsys, carry, complete, said):
    leave_run(tmp_path / "run", carry, llama, complete)
    assert export(tmp_path / "run", tmp_path / "out") == 1
    assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert export(tmp_path, tmp_path / "out") == 1
    assert "holds no run" in capsys.readouterr().err


def test_a_folder_with_other_content_is_left_alone_and_an_equal_one_is_no_error(merged, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    assert export(merged, out) == 0
    assert export(merged, out) == 0
    assert "held already" in capsys.readouterr().out
    (out / "model.safetensors").write_bytes(b"another")
    assert export(merged, out) == 1
    assert "holds something else than this export: model.safetensors is not the same" in capsys.readouterr().err
    assert (out / "model.safetensors").read_bytes() == b"another"


def test_while_a_run_is_at_work_nothing_is_exported(merged, tmp_path, capsys):
    with RunFolder(merged).lock():
        assert export(merged, tmp_path / "out") == 1
    assert "is in use by a run. Try again when it has ended." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert export(merged, tmp_path / "out") == 0


def test_no_run_starts_while_its_model_is_copied(merged, tmp_path, monkeypatch):
    copy, starts = shutil.copyfile, []

    def copied_at_a_start(source, target):
        with pytest.raises(RunFolderError, match="in use by another run"), RunFolder(merged).lock():
            pass
        starts.append(target)
        return copy(source, target)

    with RunFolder(merged).lock():
        pass  # the run itself
    monkeypatch.setattr("sefe_plugin.run.folder._PATIENCE", 0)
    monkeypatch.setattr("shutil.copyfile", copied_at_a_start)
    assert export(merged, tmp_path / "out") == 0
    assert starts


def test_an_export_is_whole_or_absent(merged, tmp_path, monkeypatch, capsys):
    copy, count = shutil.copyfile, []

    def full(source, target):
        count.append(target)
        if len(count) == 3:
            raise OSError("No space left on device")
        return copy(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile", full)
        assert export(merged, tmp_path / "out") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 5, 5))
        assert export(merged, tmp_path / "out") == 1
    assert "its disk has 0.0 kB left" in capsys.readouterr().err


class Hub:
    """Stands in for `HfApi`."""

    calls: list
    files: set
    error = None

    def create_repo(self, repo_id, private, exist_ok):
        self.calls.append(("create", repo_id, private, exist_ok))
        if self.error:
            raise self.error
        return RepoUrl(f"https://hub/{repo_id if '/' in repo_id else f'me/{repo_id}'}", endpoint="https://hub")

    def upload_folder(self, repo_id, folder_path, commit_message, delete_patterns=None):
        sent = {file.name for file in Path(folder_path).iterdir()}
        assert "/" in repo_id
        self.calls.append(("upload", repo_id, sorted(sent)))
        gone = filter_repo_objects(self.files, allow_patterns=delete_patterns or [])
        self.files.difference_update([*gone])
        self.files.update(sent)

    def model_info(self, repo_id):
        assert "/" in repo_id
        return type("Info", (), {"private": self.calls[0][2]})


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(Hub, "calls", [], raising=False)
    monkeypatch.setattr(Hub, "files", set(), raising=False)
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    return Hub


@pytest.mark.parametrize(("options", "private"), [([], True), (["--public"], False)])
def test_a_push_makes_a_private_repository_unless_it_is_told_otherwise(
    merged, tmp_path, hub, capsys, options, private
):
    assert export(merged, tmp_path / "out", "--push", "me/model", *options) == 0
    create, upload = hub.calls
    assert create == ("create", "me/model", private, True)
    assert upload == ("upload", "me/model", sorted(names(tmp_path / "out")))
    said = capsys.readouterr().out
    assert f"Pushed: https://hub/me/model ({'private' if private else 'public'})" in said
    assert not any("hf_secret" in file.read_text(errors="replace") for file in (tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("changes", "local"), [({}, False), ({"dataset_dir": "/data/mine", "lora_target": ["/a/b"]}, True)]
)
def test_folders_of_this_machine_are_named_before_a_push(tmp_path, llama, hub, capsys, changes, local):
    place = leave_run(tmp_path / "run", "merge", "owner/m", **changes)
    shutil.copytree(llama, place / "merged")
    assert export(tmp_path / "run", tmp_path / "out", "--push", "me/model") == 0
    said = capsys.readouterr().out
    line = "recipe.yaml shows on the hub where this machine has: /data/mine, /a/b\nPushed: "
    assert line in said if local else "recipe.yaml" not in said
    assert str(tmp_path) not in (tmp_path / "out/recipe.yaml").read_text()


def test_a_name_without_an_owner_is_one_of_the_users_own(merged, tmp_path, hub, capsys):
    assert export(merged, tmp_path / "out", "--push", "model") == 0
    assert hub.calls[1][:2] == ("upload", "me/model")
    assert "Pushed: https://hub/me/model (private)" in capsys.readouterr().out


def test_nothing_of_an_earlier_push_stays(merged, tmp_path, hub):
    hub.files.update({"adapter_config.json", "additional_chat_templates/old.jinja", "README.md"})
    assert export(merged, tmp_path / "out", "--push", "me/model") == 0
    assert hub.files == names(tmp_path / "out")


def test_a_push_that_fails_is_one_line_and_the_same_command_tries_again(merged, tmp_path, hub, monkeypatch, capsys):
    from httpx import ConnectError

    for error in (ConnectError("no route\nto the hub"), OSError("403 Forbidden")):
        monkeypatch.setattr(hub, "error", error)
        assert export(merged, tmp_path / "out", "--push", "me/model") == 1
        said = capsys.readouterr().err.strip()
        assert "\n" not in said
        assert "is not on the hub as me/model" in said
    monkeypatch.setattr(hub, "error", None)
    assert export(merged, tmp_path / "out", "--push", "me/model") == 0


@pytest.mark.parametrize(
    ("name", "value", "repo", "said"),
    [
        ("is_offline_mode", True, "me/model", "`--push` needs the hub, and HF_HUB_OFFLINE is set. Unset it"),
        ("get_token", None, "me/model", "`--push` needs a login: run `hf auth login` once, or set HF_TOKEN."),
        ("get_token", None, "a/b/c", "`--push` must be a name of the hub"),
    ],
)
def test_what_keeps_a_push_from_working_is_told_before_anything_is_copied(
    merged, tmp_path, hub, monkeypatch, capsys, name, value, repo, said
):
    monkeypatch.setattr(f"huggingface_hub.{name}", lambda: value)
    assert export(merged, tmp_path / "out", "--push", repo) == 1
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error
    assert not (tmp_path / "out").exists()
    assert hub.calls == []


def test_public_alone_is_refused(merged, tmp_path, capsys):
    assert export(merged, tmp_path / "out", "--public") == 1
    assert "add `--push REPO_ID`" in capsys.readouterr().err

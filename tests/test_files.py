"""Files are whole or absent, a loss of power included; and no other code of the package writes results."""

import ast
import os
from pathlib import Path

import pytest

import sefe_plugin
from sefe_plugin.files import is_whole_safetensors, read_json, remove_folder, replacing, replacing_folder, write_json
from sefe_plugin.json_lines import GrowingFile, write_json_lines
from sefe_plugin.run.steps import TRAINED, record_step


ROOT = Path(sefe_plugin.__file__).parent

#: Who may write otherwise, and why.
WRITERS = {
    "json_lines.py": "a file that only grows, each record brought to the disk",
    "run/process.py": "logs, which only grow",
    "compare/table.py": "logs, which only grow",
    "benchmarks/published/unpack.py": "pictures, renamed in one step each, before the file that makes them count",
    "benchmarks/minicoin/data.py": "pictures, before the manifest that makes the folder count",
    "benchmarks/minicoin/general.py": "pictures, before the file that makes them count",
    "benchmarks/minicoin/tiny_llava.py": "the base model, which `sefe minicoin build` makes from nothing",
    "benchmarks/minicoin/pretrain.py": "the same",
    "asd/preview.py": "an image kept in memory",
    "evaluation/html_report/pictures.py": "the same",
    "run/progress.py": "how far a task is: renamed in one step, and worth nothing after a loss of power",
    "methods/reglora/config.py": "PEFT's own file in the folder of a training, before the training counts",
    "carry/shards.py": "weights of a model, in the folder that its caller keeps whole",
    "hosts/llamafactory/merging.py": "the rest of that model, as the host's export asks for it",
    "hosts/llamafactory/node_link.py": "the secret of a run over nodes, made with its mode, gone at the end",
    "hosts/llamafactory/sequence.py": "the device that keeps nothing, once nobody reads the lines",
    "hosts/llamafactory/vllm_engine.py": "answers for the process that asks, in a folder that goes with it",
    "hosts/llamafactory/vllm_scoring.py": "a picture kept in memory",
    "hosts/llamafactory/trial_process.py": "what is told to a process, in a folder that is gone when it ends",
}


def is_write(call: ast.Call) -> bool:
    """Whether a call writes to a path that it is given: `open` for writing, or a method that saves."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("write_bytes", "save_pretrained", "copyfile", "copytree", "savefig", "save_file", "save"):
        return True
    if name == "write_text":
        return isinstance(call.func, ast.Attribute)
    modes = [word.value for word in (*call.args, *(k.value for k in call.keywords)) if isinstance(word, ast.Constant)]
    return name == "open" and any(isinstance(mode, str) and set(mode) & set("wax+") for mode in modes)


def is_kept_whole(node: ast.With) -> bool:
    calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
    return any(getattr(call.func, "id", "") in ("replacing", "replacing_folder") for call in calls)


def bare_writes(tree: ast.AST) -> list[int]:
    """Lines of writes outside `with replacing(...)`."""
    whole = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and is_kept_whole(node)
        for inner in ast.walk(node)
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and is_write(node)]
    return [call.lineno for call in calls if id(call) not in whole]


@pytest.mark.parametrize(
    "code", ["Path('x').write_text('y')", "open('x', 'w')", "f.open('ab')", "m.save_pretrained(x)"]
)
def test_a_bare_write_is_seen(code):
    assert bare_writes(ast.parse(code)) == [1]
    assert bare_writes(ast.parse(f"with replacing(x) as y:\n    {code}")) == []


def test_nothing_writes_results_but_through_files():
    found = {
        str(file.relative_to(ROOT)): lines
        for file in ROOT.rglob("*.py")
        if (lines := bare_writes(ast.parse(file.read_text(encoding="utf-8"))))
    }
    assert found.keys() == WRITERS.keys(), found


@pytest.fixture
def disk(monkeypatch):
    """Notes what is brought to the disk and what is renamed, in order, with the names' ends."""
    happened = []
    sync, replace = os.fsync, Path.replace

    def noted_sync(descriptor):
        happened.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        sync(descriptor)

    def noted_replace(path, target):
        happened.append(("rename", Path(target).name))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    return happened


def test_a_file_is_on_the_disk_before_its_name_is(disk, tmp_path):
    write_json(tmp_path / "run" / "a.json", 1)
    assert disk == [("sync", ".a.json.tmp"), ("rename", "a.json"), ("sync", "run")]


def test_lines_are_on_the_disk_before_their_name_is(disk, tmp_path):
    write_json_lines(tmp_path / "a.jsonl", [1, 2])
    assert disk[:2] == [("sync", ".a.jsonl.tmp"), ("rename", "a.jsonl")]


def test_a_folder_is_on_the_disk_before_its_name_is(disk, tmp_path):
    with replacing_folder(tmp_path / "merged") as temporary:
        (temporary / "inner").mkdir(parents=True)
        (temporary / "inner" / "weights").touch()
    renamed = disk.index(("rename", "merged"))
    assert {("sync", "weights"), ("sync", "inner"), ("sync", ".merged.tmp")} == set(disk[:renamed])
    assert disk[renamed + 1 :] == [("sync", tmp_path.name)]


def test_the_files_of_a_step_are_on_the_disk_before_it_counts(disk, tmp_path):
    (tmp_path / "adapter").touch()
    record_step(tmp_path, TRAINED)
    assert disk.index(("sync", "adapter")) < disk.index(("rename", "steps.json"))


def test_a_record_that_is_appended_is_on_the_disk(disk, tmp_path):
    with GrowingFile(tmp_path / "journal") as file:
        file.append({"reply": "yes"})
        assert disk == [("sync", "journal")]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path):
    folder = tmp_path / "merged"
    with replacing_folder(folder) as temporary:
        write_json(temporary / "a.json", 1)
    with pytest.raises(OSError, match="full"), replacing_folder(folder) as temporary:
        write_json(temporary / "a.json", 2)
        raise OSError("disk full")
    assert read_json(folder / "a.json") == 1
    with replacing_folder(folder) as temporary:
        assert not temporary.exists()  # what failed is gone
        write_json(temporary / "b.json", 3)
    assert [path.name for path in folder.iterdir()] == ["b.json"]


def test_a_folder_is_removed_whole_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "task" / "inner").mkdir(parents=True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        remove_folder(tmp_path / "task")
    assert not (tmp_path / "task").exists()
    (tmp_path / "task").mkdir()
    remove_folder(tmp_path / "task")
    assert list(tmp_path.iterdir()) == []


def test_safetensors_that_are_cut_short_are_not_whole(tmp_path):
    import numpy as np
    from safetensors.numpy import save_file

    file = tmp_path / "x.safetensors"
    assert not is_whole_safetensors(file)
    save_file({"a": np.ones(100)}, file)
    assert is_whole_safetensors(file)
    content = file.read_bytes()
    for length in (0, 4, 20, len(content) - 1):
        file.write_bytes(content[:length])
        assert not is_whole_safetensors(file)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "x.json"
    write_json(file, 1)
    with pytest.raises(OSError, match="full"), replacing(file) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert read_json(file) == 1
    assert list(tmp_path.iterdir()) == [file]

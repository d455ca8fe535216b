"""The GPU kit on the CPU: every step in small, and what becomes of steps that fail."""

import configparser
import hashlib
import json
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement


FOLDER = Path(__file__).parent


@pytest.fixture
def kit(monkeypatch):
    """The modules of the kit."""
    monkeypatch.syspath_prepend(FOLDER)
    import kit_page
    import kit_steps
    import run

    return run, kit_steps, kit_page


def write_text_model(folder: Path) -> None:
    """Write a Llama of two layers, with a byte-level tokenizer that knows the chat marks."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = {"bos_token": special[1], "eos_token": special[2], "pad_token": special[0]}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **sizes, **ids)).save_pretrained(folder)


#: Those of a rehearsal that are quickly done.
QUICK = ("penalty", "fused", "llava_16", "qwen_16", "plan")


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_rehearsal_does_its_steps(kit, warm, monkeypatch, tmp_path, every):
    run, steps, _ = kit
    chosen = [step for step in steps.STEPS if every or step.name in QUICK]
    write_text_model(tmp_path / "model")
    monkeypatch.setattr(sys, "executable", shutil.which("python", path=warm["PATH"]))
    for name in os.environ.keys() - warm.keys():
        monkeypatch.delenv(name)
    for name, value in warm.items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "out"
    # the limits are a GPU's; a CPU may have others to serve
    monkeypatch.setattr(run, "STEPS", [replace(step, seconds=10 * step.seconds) for step in chosen])
    words = ["run.py", "--rehearse", "--minutes", "250", "--out", str(out), "--model", str(tmp_path / "model")]
    monkeypatch.setattr(sys, "argv", words)
    run.main()
    results = json.loads((out / "kit.json").read_text())
    ends = {name: (record["state"], record.get("reason")) for name, record in results["steps"].items()}
    assert ends.pop("fused") == ("skipped", "a fused kernel needs a GPU")
    assert ends == {step.name: ("done", None) for step in chosen if step.name != "fused"}
    figures = {name: record.get("figures") for name, record in results["steps"].items()}
    assert figures["qwen_16"]["step_seconds"]["penalised"] > 0
    assert list(figures["plan"]["tasks"]) == ["1_TextVQA", "2_ImageNet"]
    page = (out / "kit.md").read_text()
    assert "A rehearsal" in page
    assert "| 1_TextVQA |" in page
    if every:
        assert figures["tests"]["passed"] > 5
        assert figures["tests"]["skipped"] == 2
        assert "text_sefe+reglora_key_ratio=0.05" in page


def stand_in(steps, name, code, seconds=60, skip=None, left=None):
    """A step that runs a line of Python."""
    return steps.Step(
        name,
        f"about {name}",
        seconds,
        lambda setting: [sys.executable, "-IS", "-c", code],
        lambda setting: left,
        skip or steps.nothing,
    )


@pytest.fixture
def outcome(kit, tmp_path):
    """Runs stand-in steps; returns their records."""
    run, steps, _ = kit
    known = {"rehearsal": True, "machine": {"gpu": None, "cores": 2, "python": "3", "packages": {}}, "steps": {}}

    def do(*chosen, minutes=5, **changes):
        setting = steps.Setting(tmp_path / "work", changes.pop("rehearse", True), tmp_path)
        setting.work.mkdir(exist_ok=True)
        run.run_kit(chosen, setting, tmp_path, minutes, {**known, **changes})
        written = json.loads((tmp_path / "kit.json").read_text())
        return written["steps"], (tmp_path / "kit.md").read_text()

    return do


def test_a_step_that_fails_or_takes_too_long_does_not_stop_the_others(kit, outcome, tmp_path):
    _, steps, _ = kit
    child, parent = tmp_path / "child.py", tmp_path / "parent.py"
    child.write_text(
        "import pathlib, sys, time\n"
        "pathlib.Path(sys.argv[1], 'begun').touch()\n"
        "time.sleep(5)\n"
        "pathlib.Path(sys.argv[1], 'ended').touch()\n"
    )
    parent.write_text("import subprocess, sys\nsubprocess.run([sys.executable, '-IS', *sys.argv[1:]])\n")
    slow = f"import runpy, sys; sys.argv = ['', {str(child)!r}, {str(tmp_path)!r}]; runpy.run_path({str(parent)!r})"
    records, page = outcome(
        stand_in(steps, "wrong", "print('what it said'); raise SystemExit(3)", left={"half": 1}),
        stand_in(steps, "slow", slow, seconds=3),
        stand_in(steps, "empty", "pass"),
        stand_in(
            steps, "skipped", "raise SystemExit(1)", skip=lambda setting, figures: f"half was {figures['wrong']}"
        ),
        stand_in(steps, "good", "pass", left={"answer": 42}),
    )
    ends = {name: (record["state"], record.get("reason")) for name, record in records.items()}
    assert ends == {
        "wrong": ("failed", "its command ended with status 3"),
        "slow": ("out of time", "it was ended after 3 s"),
        "empty": ("failed", "its command ended well and left no figures"),
        "skipped": ("skipped", "half was {'half': 1}"),
        "good": ("done", None),
    }
    assert records["wrong"]["said"].strip() == "what it said"
    assert records["wrong"]["figures"] == {"half": 1}
    assert "| answer | 42 |" in page
    assert (tmp_path / "begun").exists()
    time.sleep(5)
    assert not (tmp_path / "ended").exists()


def test_a_step_is_begun_only_if_all_its_time_is_left(kit, outcome):
    _, steps, _ = kit
    records, _ = outcome(stand_in(steps, "long", "pass", seconds=61), minutes=1, left=None)
    assert records["long"]["state"] == "skipped"
    assert records["long"]["reason"].startswith("it may take 61 s, and ")


def test_what_is_done_is_not_done_again(kit, outcome):
    _, steps, _ = kit
    done = {"state": "done", "about": "about first", "limit_seconds": 1, "figures": {"kept": 1}}
    records, _ = outcome(
        stand_in(steps, "first", "raise SystemExit(1)"),
        stand_in(steps, "second", "pass", left={}),
        steps={"first": done},
    )
    assert records["first"] == done
    assert records["second"]["state"] == "done"


def test_without_a_gpu_every_step_is_skipped_by_name(kit, outcome):
    _, steps, _ = kit
    records, _ = outcome(*steps.STEPS, rehearse=False)
    assert list(records) == [step.name for step in steps.STEPS]
    assert {record["state"] for record in records.values()} == {"skipped"}
    assert {record["reason"] for record in records.values()} == {"no CUDA device was found"}


def test_all_steps_fit_into_25_minutes(kit):
    _, steps, _ = kit
    assert sum(step.seconds for step in steps.STEPS) <= 25 * 60


def test_a_fused_kernel_is_measured_where_the_plain_path_misses_its_goal(kit, tmp_path):
    _, steps, _ = kit
    setting = steps.Setting(tmp_path, False, tmp_path)
    assert "at most the goal" in steps.fused_reason(setting, {"penalty": {"time_over_gemm_floor": 1.9}})
    assert steps.fused_reason(setting, {"penalty": {"time_over_gemm_floor": 2.1}}) is None
    assert "left no figures" in steps.fused_reason(setting, {})


def test_the_table_of_styles_names_what_it_lacks(kit, monkeypatch, tmp_path):
    _, steps, _ = kit
    setting = steps.Setting(tmp_path, False, tmp_path / "model")
    monkeypatch.setattr(
        steps, "STYLES", [steps.ROOT / "recipes" / "text_sefe.yaml", steps.ROOT / "recipes" / "no.yaml"]
    )
    assert steps.styles_reason(setting, {}) == "these recipes do not exist: recipes/no.yaml"
    monkeypatch.setattr(steps, "STYLES", steps.STYLES[:1])
    assert steps.styles_reason(setting, {}).startswith(f"there is no model in {tmp_path}/model")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert steps.styles_reason(setting, {}) is None


def test_the_measurements_of_true_size_are_those_of_the_model(kit, tmp_path):
    _, steps, _ = kit
    setting = steps.Setting(tmp_path, False, tmp_path)
    commands = {step.name: step.command(setting) for step in steps.STEPS}
    assert all("--shrink" not in command for command in commands.values())
    assert all(commands[name][-1] == str(setting.figures_file(name)) for name in ("penalty", "llava_24", "plan"))
    assert {"cuda"} == {commands[name][commands[name].index("--device") + 1] for name in ("penalty", "fused")}
    found = set(map(Path, steps.gpu_test_files()))
    assert steps.ROOT / "tests" / "plan" / "test_gpu.py" in found
    assert steps.ROOT / "tests" / "benchmarks" / "test_benchmarks.py" in found


@pytest.fixture
def packed(monkeypatch, tmp_path):
    """Two files cut into parts, with their sums; the module that unpacks, and where it keeps parts."""
    monkeypatch.syspath_prepend(FOLDER)
    import pack
    import unpack

    folder = tmp_path / "packed"
    folder.mkdir()
    sums = []
    for name, size in (("site.tar.xz", 900), ("model.whl", 2500)):
        whole = folder / name
        whole.write_bytes(os.urandom(size))
        files = [whole, *pack.split(whole, 1000)]
        sums += [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}" for file in files]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    (tmp_path / "parts").mkdir()
    return unpack, folder, tmp_path / "parts"


def test_parts_are_small_enough_and_become_the_whole_again_in_several_calls(packed):
    unpack, folder, parts = packed
    cut = sorted(folder.glob("model.whl.*"))
    assert [part.name for part in cut] == [f"model.whl.{number}of3" for number in (1, 2, 3)]
    assert max(part.stat().st_size for part in cut) <= 1000
    sums = unpack.take([folder / "SHA256SUMS", cut[2], folder / "site.tar.xz.1of1"], parts)
    assert unpack.join("model.whl", sums, parts) is None
    assert unpack.join("site.tar.xz", sums, parts).read_bytes() == (folder / "site.tar.xz").read_bytes()
    sums = unpack.take(cut[:2], parts)
    assert unpack.join("model.whl", sums, parts).read_bytes() == (folder / "model.whl").read_bytes()


def test_a_damaged_part_is_refused(packed):
    unpack, folder, parts = packed
    part = folder / "model.whl.1of3"
    part.write_bytes(part.read_bytes()[:-1] + b"?!")
    with pytest.raises(SystemExit, match=r"model\.whl\.1of3 is not what was packed"):
        unpack.take([folder / "SHA256SUMS", part], parts)
    assert not (parts / part.name).exists()
    with pytest.raises(SystemExit, match="first call needs the file SHA256SUMS"):
        unpack.take([folder / "model.whl.2of3"], folder.parent)


def test_the_packages_are_pinned_and_fit_the_project():
    lines = (FOLDER / "packages.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    setup = configparser.ConfigParser()
    setup.read(FOLDER.parents[1] / "setup.cfg")
    options = setup["options"]["install_requires"] + setup["options.extras_require"]["qlora"]
    needed = [Requirement(line) for line in options.splitlines() if line and not line.startswith("#")]
    assert {"llamafactory", "transformers", "peft", "bitsandbytes"} <= {one.name for one in needed} & pins.keys()
    for requirement in needed:
        assert requirement.name not in pins or requirement.specifier.contains(pins[requirement.name])

"""Model families: SEFE's two tasks by `llamafactory-cli train`, and what is left loaded without the plugin.

`pytest -s -m "" tests/hosts/test_families.py` ends with the table of docs/models.md.
"""

import copy
import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from tiny_families import FAMILIES, write_family
from transformers import AutoModelForImageTextToText, AutoProcessor

from sefe_plugin.hosts.llamafactory.weight_names import reads_own_names
from sefe_plugin.methods.reglora.files import read_key_elements
from sefe_plugin.run.verify import verify_run


TASKS = ("1_ScienceQA", "2_TextVQA")
SHORT = {
    "max_samples": 16,
    "max_test_samples": 8,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-2,
    "max_new_tokens": 2,
    "cutoff_len": 512,
    "default_system": None,
}
#: Keys of each way: the language model alone merged or stacked, and merged with the vision tower and the projector.
WAYS = {
    "merge": {"carry": "merge"},
    "stack": {"carry": "stack"},
    "vision": {"carry": "merge", "freeze_vision_tower": False, "freeze_multi_modal_projector": False},
}
ALWAYS = {("Gemma 3", "merge")}
CASES = [
    pytest.param(family, way, marks=[] if (family, way) in ALWAYS else pytest.mark.slow)
    for family in FAMILIES
    for way in WAYS
]
#: Largest distance of logits, in fp32. The logits themselves, of random models, are of some tenths.
TOLERANCE = 1e-5
#: What an adapter changes logits by, at least: a thousand times that.
CHANGE = 1e-2


@dataclass(frozen=True)
class Measured:
    """Of one sequence: its seconds, the smallest change by an adapter, and the largest distance of what it became."""

    model: str
    seconds: float
    change: float
    distance: float


_measured: dict[tuple[str, str], Measured] = {}


@pytest.mark.parametrize(("family", "way"), CASES)
def test_a_sequence_of_two_tasks(train, small_recipe, tmp_path, family, way):
    base = tmp_path / "base"
    keys = {"model_name_or_path": str(base), "template": write_family(family, base).template, **WAYS[way], **SHORT}
    recipe = small_recipe(tmp_path, 2, **keys)
    began = time.monotonic()
    result = train(recipe)
    seconds = time.monotonic() - began
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-30000:]
    findings = list(verify_run(tmp_path / "run", lambda keys, place: iter(())))
    assert all(finding.state for finding in findings), findings
    model, change, distance = look_at(base, tmp_path / "run", way)
    _measured[family, way] = Measured(model, seconds, change, distance)


def look_at(base: Path, run: Path, way: str) -> tuple[str, float, float]:
    """Load what the sequence has left; returns the class, the smallest change and the largest distance of logits."""
    folders = [run / task for task in TASKS]
    matrices = check_key_elements(folders)
    model, question = load(base), ask(base, seed=0)
    in_text = {f"{name}.weight" for name in matrices if "language_model" in name}
    assert len(in_text) == 7 * model.config.get_text_config().num_hidden_layers
    assert (way == "vision") == (len(matrices) > len(in_text))
    assert apart(logits(model, question), logits(model, ask(base, seed=1))) > TOLERANCE  # it sees the picture
    changes, distances = [], []
    for folder in folders:
        before = logits(model, question)
        by_adapter = logits(adapt(copy.deepcopy(model), folder), question)
        if way == "stack":
            carried = adapt(load(base), folder / "stacked")
            distances.append(apart(logits(carried, question), by_adapter))
            carried = carried.merge_and_unload()
            del carried.peft_config  # PEFT leaves it there, and warns of it
        else:
            carried = load(folder / "merged")
            check_names(carried, folder / "merged")
            question = ask(folder / "merged", seed=0)
        distances.append(apart(logits(carried, question), by_adapter))
        changes.append(apart(by_adapter, before))
        changed = different(model, carried)
        # LLaVA's features come from the last layer but one: nothing reaches the matrices after it
        assert in_text <= changed <= {f"{name}.weight" for name in matrices}
        assert (way == "vision") == (changed > in_text)
        model = carried
    assert max(distances) < TOLERANCE and min(changes) > CHANGE, (distances, changes)
    return type(model).__name__, min(changes), max(distances)


def check_key_elements(folders: list[Path]) -> set[str]:
    """Key elements of task 1 are in the very matrices of task 2 and are penalised; returns the adapted matrices."""
    first, second = ({name.rpartition(".lora_")[0] for name in adapter_weights(folder)} for folder in folders)
    assert read_key_elements(folders[0] / "key_elements.safetensors").shapes.keys() == first == second
    history = json.loads((folders[1] / "trainer_state.json").read_text())["log_history"]
    penalties = [entry["reglora_penalty"] for entry in history if "loss" in entry]
    assert penalties[0] == 0 < min(penalties[1:])  # B = 0 at the first step
    assert (folders[1] / "asd.jsonl").stat().st_size > 0
    return first


def adapter_weights(folder: Path) -> dict[str, torch.Tensor]:
    assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA"
    weights = load_file(folder / "adapter_model.safetensors")
    return {name.removeprefix("base_model.model."): value for name, value in weights.items()}


def check_names(model, folder: Path) -> None:
    """The file names tensors as the model's modules are called, which no version of transformers takes for others."""
    assert reads_own_names(model)
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert load_file(folder / "model.safetensors").keys() == model.state_dict().keys() - (
        {"lm_head.weight"} if tied else set()
    )


def load(folder: Path):
    """Load a model by plain transformers; every weight of the model and of the file has found the other."""
    model, found = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(found.values()), found
    return model.eval()


def adapt(model, folder: Path) -> PeftModel:
    """Load an adapter by plain PEFT, which only warns of weights that it does not find."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return PeftModel.from_pretrained(model, folder).eval()


def ask(folder: Path, seed: int) -> dict[str, torch.Tensor]:
    """Return a question about a picture as the processor in a folder gives it to the model."""
    processor = AutoProcessor.from_pretrained(folder)
    place = getattr(processor, "boi_token", processor.image_token)  # Gemma 3's processor looks for the former
    pixels = torch.randint(256, (64, 64, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return processor(
        images=Image.fromarray(pixels.numpy()), text=f"{place}\nwhat is at the top left", return_tensors="pt"
    )


def logits(model, question) -> torch.Tensor:
    with torch.no_grad():
        return model(**question).logits


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


def different(old, new) -> set[str]:
    """Return the names of the weights in which two models are not equal bit by bit."""
    before, after = old.state_dict(), new.state_dict()
    assert before.keys() == after.keys()
    return {name for name, value in before.items() if not value.equal(after[name])}


def test_every_family_is_in_the_docs_with_its_template_and_class():
    """Print the table too; it runs last in this file."""
    print("\n\n| family | `template` | class in transformers | " + " | ".join(f"`{way}`" for way in WAYS) + " |")
    print("| --- | --- | --- | " + "--- | " * len(WAYS))
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    for name, family in FAMILIES.items():
        found = [_measured.get((name, way)) for way in WAYS]
        model = next((f"`{one.model}`" for one in found if one), "-")
        cells = [f"{one.seconds:.0f} s, {one.change:.2f}, {one.distance:.0e}" if one else "-" for one in found]
        print(f"| {name} | `{family.template}` | {model} | {' | '.join(cells)} |")
        row = next(line for line in page.splitlines() if line.startswith(f"| {name} | `{family.template}` |"))
        assert model in ("-", row.split(" | ")[2]), row

"""LoTA: exact global masks, and weights outside them that do not move by a bit."""

import re

import pytest
import torch
from short_training import short_arguments
from transformers import LlamaForCausalLM, Trainer

from sefe_plugin.methods.callback import MethodCallback
from sefe_plugin.methods.lota.masks import largest, pack, read_masks, unpack, write_masks
from sefe_plugin.methods.lota.method import Lota, _load_start


def samples():
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(4, 64, (8,), generator=generator) for _ in range(8)]
    return [{"input_ids": row, "labels": row} for row in rows]


@pytest.mark.parametrize("shape", [(1,), (8,), (3, 5), (2, 3, 7)])
def test_packing_loses_nothing(shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.4
    bits = pack(mask)
    assert bits.dtype == torch.uint8 and len(bits) == -(-mask.numel() // 8)
    assert torch.equal(unpack(bits, mask.shape), mask)


def marked(values, count):
    tensors = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in values.items()}
    masks = largest(lambda: iter(tensors.items()), count)
    return {name: unpack(masks[name], tensors[name].shape) for name in tensors}


def test_the_largest_of_all_tensors_are_marked_and_of_equals_the_first():
    found = marked({"a": [0.5, 3.0, 0.5, -1.0], "b": [[0.5, 0.0], [2.0, 0.5]]}, 4)
    assert found["a"].tolist() == [True, True, True, False]
    assert found["b"].tolist() == [[False, False], [True, False]]


def test_never_more_are_marked_than_may_be():
    found = marked({"a": [-1.0, 0.25, -1.0], "b": [0.0]}, 3)
    assert found["a"].tolist() == [False, True, False] and found["b"].tolist() == [True]
    assert not marked({"a": [-1.0, -1.0]}, 1)["a"].any()


@pytest.mark.parametrize("count", [1, 7, 100, 599, 600])
def test_masks_are_those_of_a_full_sort(count):
    generator = torch.Generator().manual_seed(count)
    values = {"a": torch.rand(20, 10, generator=generator) ** 4, "b": torch.rand(400, generator=generator) ** 4}
    found = marked(values, count)
    threshold = (
        torch.cat([value.flatten() for value in values.values()]).double().sort(descending=True).values[count - 1]
    )
    for name, value in values.items():
        assert torch.equal(found[name], value.double() >= threshold), name


def test_files_of_masks_are_checked(tmp_path):
    mask = torch.rand(3, 5) < 0.5
    file = tmp_path / "mask.safetensors"
    write_masks({"a": pack(mask)}, {"a": (3, 5), "b": (2,)}, file)
    assert torch.equal(unpack(read_masks(file, {"a": (3, 5)})["a"], mask.shape), mask)
    with pytest.raises(ValueError, match=r"a has shape \(3, 5\) in the file and is \(5, 3\) in the model"):
        read_masks(file, {"a": (5, 3)})
    with pytest.raises(ValueError, match=r"\(3, 5\) in the file and is absent in the model"):
        read_masks(file, {"c": (5, 3)})
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_masks(tmp_path / "other", {})
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        read_masks(file, {"a": (3, 5)})
    file.write_bytes(content[:40])
    with pytest.raises(ValueError, match="damaged"):
        read_masks(file, {"a": (3, 5)})


@pytest.fixture
def train(tmp_path, tiny_llama):
    """Train one phase from a model's folder, and return the folder that it leaves."""
    start = tmp_path / "start"
    tiny_llama().save_pretrained(start)

    def run(name, base=start, earlier=(), **options):
        model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
        folder = tmp_path / name
        method = Lota(options)
        trainer = Trainer(
            model, short_arguments(folder, 3), train_dataset=samples(), callbacks=[MethodCallback(method, earlier)]
        )
        trainer.train()
        model.save_pretrained(folder)
        return folder

    run.start = start
    return run


def weights(folder):
    return {name: p.detach() for name, p in LlamaForCausalLM.from_pretrained(folder).named_parameters()}


def moved(before, after):
    return {name: before[name] != after[name] for name in before}


def test_two_tasks_change_disjoint_weights_and_nothing_else_by_a_bit(train):
    start = weights(train.start)
    mask = train("calibrate", lota_ratio=0.1) / "mask.safetensors"
    first = train("first", lota_mask=str(mask))
    shapes = {name: tuple(value.shape) for name, value in start.items()}
    masks = {name: unpack(bits, start[name].shape) for name, bits in read_masks(mask, shapes).items()}
    assert sorted(masks) == sorted(name for name in start if "mlp" in name or "attn" in name)
    calibrated = weights(train.start.parent / "calibrate")
    changes = torch.cat([(calibrated[name] - start[name]).abs().flatten() for name in masks])
    assert sum(int(m.sum()) for m in masks.values()) == int(0.1 * len(changes))
    assert (
        min((calibrated[n] - start[n]).abs()[m].min() for n, m in masks.items() if m.any())
        >= changes.sort().values[-int(0.1 * len(changes))]
    )
    ours = moved(start, weights(first))
    assert sum(int(m.sum()) for m in ours.values()) > 0.9 * sum(int(m.sum()) for m in masks.values())
    for name, changed in ours.items():
        assert not (changed & ~masks.get(name, torch.zeros_like(changed))).any(), name
    left = read_masks(first / "mask.safetensors", shapes)
    assert all(torch.equal(bits, left[name]) for name, bits in read_masks(mask, shapes).items())

    left = [first / "mask.safetensors"]
    next_mask = train("calibrate2", first, left, lota_ratio=0.1) / "mask.safetensors"
    second = train("second", first, left, lota_mask=str(next_mask))
    theirs = moved(weights(first), weights(second))
    assert any(changed.any() for changed in theirs.values())
    for name, changed in theirs.items():
        assert not (changed & ours[name]).any(), name


def test_the_phases_are_a_calibration_and_a_masked_training():
    keys = {"output_dir": "run/1_a", "num_train_epochs": 2, "lota_calibration": 0.25}
    calibrate, masked = Lota.phases(keys)
    assert (calibrate.name, calibrate.keys) == ("calibrate", {"num_train_epochs": 0.5})
    assert (masked.name, masked.keys) == ("", {"lota_mask": "run/1_a/calibrate/mask.safetensors"})


def test_max_steps_are_shortened_as_epochs_are():
    keys = {"output_dir": "run/1_a", "max_steps": 10, "lota_calibration": 0.25}
    calibrate, masked = Lota.phases(keys)
    assert (calibrate.keys, masked.keys.keys()) == ({"max_steps": 3}, {"lota_mask"})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"weight_decay": 0.1}, "`weight_decay` must be 0 with `cl_method: lota`.*got 0.1"),
        (
            {"deepspeed": {"optimizer": {"type": "AdamW", "params": {"weight_decay": 0.01}}}},
            "`deepspeed`: `weight_decay` of its optimizer must be 0.*got 0.01",
        ),
        ({"use_galore": True}, "`use_galore` cannot be combined"),
        ({"optim": "galore_adamw"}, "`optim: galore_adamw` cannot be combined"),
        ({"fsdp": "full_shard"}, "`fsdp` cannot be combined"),
        ({"lota_masks": "none.safetensors"}, "`lota_masks`: the file none.safetensors does not exist"),
        ({"lota_mask": "none,1.safetensors"}, "`lota_mask`: the file none,1.safetensors does not exist"),
        (
            {"cl_method": "lota", "quantization_bit": 4},
            "cannot be combined with `cl_method: lota`: quantized weights cannot be trained",
        ),
        (
            {"deepspeed": {"optimizer": {"params": {"weight_decay": "x"}}}},
            "`deepspeed`: `weight_decay` of its optimizer must be 0.*got 'x'",
        ),
    ],
)
def test_what_would_move_other_weights_is_refused(keys, message):
    (error,) = Lota.errors(keys)
    assert re.search(message, error)


def test_keys_that_move_no_other_weights_are_not_refused():
    auto = {"optimizer": {"params": {"weight_decay": "auto"}}, "zero_optimization": {"stage": 2}}
    assert Lota.errors({"weight_decay": 0.0, "optim": "adamw_torch", "deepspeed": auto}) == []
    for empty in ({"optimizer": None}, {"optimizer": {"params": None}}):
        assert Lota.errors({"deepspeed": empty}) == []


def test_rounding_of_the_start_is_no_change(tiny_llama):
    """A model kept in 32 bit and trained in 16 has changed where the training has changed it."""
    start, model = tiny_llama(), tiny_llama().bfloat16()
    method = Lota()
    method._earlier = []
    name, parameter = next((n, p) for n, p in model.named_parameters() if "mlp" in n)
    with torch.no_grad():
        parameter[0, 0] += 1
    changes = dict(method._changes(model, start, [n for n, _ in model.named_parameters()]))
    assert [(n, c.nonzero().tolist()) for n, c in changes.items() if c.any()] == [(name, [[0, 0]])]


def test_the_start_is_of_the_revision_that_was_trained(tiny_llama, monkeypatch):
    model, asked = tiny_llama(), []
    monkeypatch.setattr(type(model), "from_pretrained", lambda *args, **keys: asked.append((*args, keys["revision"])))
    model.config._name_or_path = "a/model"
    for model.config._commit_hash in (None, "0123abc"):
        _load_start(model)
    assert asked == [("a/model", "main"), ("a/model", "0123abc")]


def test_masks_that_a_task_has_left_are_checked(tmp_path):
    shapes = {"a": (3, 5), "b": (10,)}
    first, second = torch.zeros(15, dtype=torch.bool), torch.zeros(15, dtype=torch.bool)
    first[:4], second[4:8] = True, True
    for place, mask in (("1", first), ("2", second)):
        masks = {"a": pack(mask.view(3, 5)), "b": pack(torch.zeros(10, dtype=torch.bool))}
        write_masks(masks, shapes, tmp_path / place / "mask.safetensors")
    keys = {"lota_ratio": 0.2, "lota_masks": [str(tmp_path / "1" / "mask.safetensors")]}
    found = Lota.check_file(tmp_path / "2", keys)
    assert found == "its sum is right, and 4 of 25 weights are marked, none by an earlier task"
    with pytest.raises(ValueError, match=r"marks 4 weights; with `lota_ratio: 0.1` it is 2"):
        Lota.check_file(tmp_path / "2", {**keys, "lota_ratio": 0.1})
    with pytest.raises(ValueError, match=r"marks weights of a that .* has marked before"):
        Lota.check_file(tmp_path / "1", keys)
    with pytest.raises(FileNotFoundError):
        Lota.check_file(tmp_path / "3", keys)


def test_a_task_for_which_no_weight_is_left_is_refused(train):
    mask = train("calibrate", lota_ratio=1.0) / "mask.safetensors"
    with pytest.raises(ValueError, match=r"none is left for this one\. Use a smaller share"):
        train("calibrate2", earlier=[mask])


def test_a_share_of_no_weight_is_refused(train):
    with pytest.raises(ValueError, match=r"`lota_ratio`: 1e-06 of the .* weights of `lota_layers` marks no weight"):
        train("calibrate", lota_ratio=1e-6)


def test_layers_without_a_trained_weight_are_refused(train):
    with pytest.raises(ValueError, match="`lota_layers`: no trained weight has one of"):
        train("calibrate", lota_layers="conv")

"""KeepLoRA: subspaces against numpy, gradients against autograd, and changes that stay out of what is kept."""

import copy
import doctest

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from short_training import short_arguments
from transformers import Trainer, TrainingArguments

from sefe_plugin.methods.callback import MethodCallback
from sefe_plugin.methods.keeplora import subspace
from sefe_plugin.methods.keeplora.method import _REFUSED, KeepLora
from sefe_plugin.methods.keeplora.subspace import feature_directions, free_directions, weight_directions
from sefe_plugin.methods.keeplora.sums import adapted_layers, feature_moments, gradient_sums
from sefe_plugin.methods.left_file import write_left
from sefe_plugin.methods.task_data import TaskData


TARGETS = ["q_proj", "v_proj", "down_proj"]
ALL = {"keeplora_data": 1.0, "keeplora_weight_energy": 0.4, "keeplora_feature_energy": 0.7}


def test_examples():
    assert doctest.testmod(subspace).failed == 0


def random(*shape, seed=0, decay=0.0):
    """A matrix whose singular values fall."""
    matrix = np.random.default_rng(seed).normal(size=shape)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return left * (values * np.exp(-decay * np.arange(len(values)))) @ right


def span(rows):
    """The projection onto the rows."""
    rows = np.asarray(rows, dtype=np.float64)
    return rows.T @ rows


def directions(count, size, seed=9):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, count)))[0].T


@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (9, 9)])
@pytest.mark.parametrize("share", [0.05, 0.6, 0.95, 1.0])
def test_weight_directions_are_the_fewest_singular_vectors_that_hold_the_share(shape, share):
    weight = random(*shape, decay=0.3)
    _, values, right = np.linalg.svd(weight, full_matrices=False)
    energy = np.cumsum(values**2) / np.sum(values**2)
    count = int(np.argmax(energy >= share - 1e-12)) + 1
    found = weight_directions(torch.from_numpy(weight), share)
    assert found.shape == (count, shape[1])
    np.testing.assert_allclose(span(found), span(right[:count]), atol=1e-8)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99, 1.0])
def test_feature_directions_complete_what_the_kept_ones_hold(share):
    features, kept = random(40, 10, decay=0.4), directions(3, 10)
    left = features - features @ span(kept)
    _, values, right = np.linalg.svd(left, full_matrices=False)
    total = np.sum(features**2)
    held = np.sum((features @ span(kept)) ** 2) / total
    count = 0  # one by one, as the rule says
    while held + np.sum(values[:count] ** 2) / total < share - 1e-12 and count < 7:
        count += 1
    moment = torch.from_numpy(features.T @ features)
    found = feature_directions(moment, torch.from_numpy(kept), share)
    assert len(found) == count
    np.testing.assert_allclose(span(found), span(right[:count]), atol=1e-7)
    assert np.abs(found.numpy() @ kept.T).max(initial=0) < 1e-12
    all_of_them = np.vstack([kept, found.numpy()])
    assert np.sum((features @ span(all_of_them)) ** 2) / total >= share - 1e-9


def test_no_feature_direction_is_added_where_the_kept_ones_hold_enough():
    features = np.outer(np.arange(1.0, 9), [1.0, 0, 0, 0])
    kept = torch.eye(4)[:1]
    assert feature_directions(torch.from_numpy(features.T @ features), kept, 1.0).shape == (0, 4)


@pytest.mark.parametrize("shape", [(12, 8), (6, 8)])
def test_free_directions_are_the_top_ones_of_the_projected_gradient(shape):
    gradient, kept = random(*shape), directions(3, 8)
    left = gradient - gradient @ span(kept)
    _, _, right = np.linalg.svd(left)
    found = free_directions(torch.from_numpy(gradient), torch.from_numpy(kept), 2)
    np.testing.assert_allclose(span(found), span(right[:2]), atol=1e-8)
    assert np.abs(found.numpy() @ kept.T).max() < 1e-5
    # whatever the sign of a singular vector is, here and on another machine
    assert torch.equal(free_directions(-torch.from_numpy(gradient), torch.from_numpy(kept), 2), found)
    assert all(row[row.abs().argmax()] > 0 for row in found)


def test_directions_without_a_gradient_are_left_empty():
    kept = torch.from_numpy(directions(6, 8))
    found = free_directions(torch.from_numpy(random(12, 8)).float(), kept.float(), 4)
    norms = found.norm(dim=1)
    torch.testing.assert_close(norms, torch.tensor([1.0, 1, 0, 0], dtype=torch.float64))
    assert (found @ kept.T).abs().max() < 1e-5
    nothing = free_directions(torch.from_numpy(random(12, 8)), torch.eye(8), 2)
    assert torch.equal(nothing, torch.zeros(2, 8, dtype=torch.float64))


def samples(seed=0, count=8):
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(4, 64, (8,), generator=generator).tolist() for _ in range(count)]
    return [{"input_ids": row, "labels": [-100, -100, *row[2:]]} for row in rows]


def lora(base, **changes):
    torch.manual_seed(0)
    return get_peft_model(base, LoraConfig(**{"r": 2, "lora_alpha": 6, "target_modules": TARGETS, **changes}))


def task_data(model, folder, rows):
    trainer = Trainer(model, TrainingArguments(str(folder), use_cpu=True), train_dataset=rows)
    return TaskData(trainer.get_train_dataloader(), trainer.args)


def test_gradients_and_moments_are_those_of_autograd(tiny_llama, tmp_path):
    rows = samples(count=3)
    model = lora(tiny_llama(), lora_dropout=0.5)
    layers = adapted_layers(model)
    assert len(layers) == 6
    data = task_data(model, tmp_path, rows)
    sums, moments = (collect(model, layers, data, [0, 1, 2]) for collect in (gradient_sums, feature_moments))
    plain = tiny_llama()
    features = {}
    for name in layers:
        module = plain.get_submodule(name)
        features[name] = []
        module.register_forward_hook(lambda _, inputs, __, kept=features[name]: kept.append(inputs[0][0]))
    loss = 0.0
    for row in rows:
        out = plain(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]]))
        loss = loss + out.loss * 6  # answer tokens
    loss.backward()
    for name in layers:
        torch.testing.assert_close(sums[name], plain.get_submodule(name).weight.grad, rtol=1e-4, atol=1e-6)
        X = torch.cat(features[name]).detach().double()
        torch.testing.assert_close(moments[name].double(), X.T @ X, rtol=1e-4, atol=1e-5)


def test_a_share_of_the_samples_is_evenly_spread(tiny_llama, tmp_path):
    data = task_data(lora(tiny_llama()), tmp_path, samples(count=10))
    assert data.spread(0.3) == [0, 3, 6] and data.spread(1.0) == list(range(10)) and data.spread(0.01) == [0]


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_without_weight_decay_it_is_the_training_from_the_papers_start(decay):
    """Train B from B_0 beside W - s B_0 A, as in the paper, and from 0 beside W."""
    torch.manual_seed(0)
    scale, inputs, targets = 1.5, torch.randn(64, 6).double(), torch.randn(64, 5).double()
    weight, A = torch.randn(5, 6).double(), torch.from_numpy(directions(2, 6))
    changes, losses = [], []
    for start in (torch.randn(5, 2).double(), torch.zeros(5, 2).double()):
        base = weight - scale * start @ A
        B = torch.nn.Parameter(start.clone())
        optimizer = torch.optim.AdamW([B], lr=0.05, weight_decay=decay)
        seen = []
        for _ in range(30):
            loss = (torch.tanh(inputs @ (base + scale * B @ A).T) - targets).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
        changes.append((base + scale * B @ A - weight).detach())
        losses.append(seen)
    same = torch.allclose(*changes, atol=1e-10) and np.allclose(*losses, atol=1e-12)
    assert same == (decay == 0.0)
    assert changes[1].abs().max() > 0.1


def train(base, folder, earlier=(), seed=1, model=None, **options):
    model = model or lora(base)
    callback = MethodCallback(KeepLora({**ALL, **options}), earlier)
    Trainer(model, short_arguments(folder, 5), train_dataset=samples(seed), callbacks=[callback]).train()
    model.save_pretrained(folder)
    return model, folder / KeepLora.file


def merged(model):
    base = model.merge_and_unload()
    del base.peft_config  # as when it is loaded again
    return base


def change_of(layer):
    return layer.get_delta_weight("default").detach()


def test_what_a_task_changes_is_orthogonal_to_all_that_is_kept(tiny_llama, tmp_path):
    base = tiny_llama()
    first_weights = {name: p.detach().clone() for name, p in base.named_parameters()}
    kept: dict[str, torch.Tensor] = {}
    files = []
    for task in range(3):
        model, file = train(base, tmp_path / str(task), files, seed=task)
        for name, layer in adapted_layers(model).items():
            if task == 0:
                kept[name] = weight_directions(first_weights[f"{name}.weight"], 0.4)
            rows, change = kept[name], change_of(layer).double()
            assert change.norm() > 1e-3
            assert (change @ rows.T).norm() < 1e-5 * change.norm()
            A = layer.lora_A["default"].weight
            torch.testing.assert_close(A @ A.T, torch.eye(2), atol=1e-5, rtol=0)
        found = load_file(file)
        assert any(name.startswith("weights.") for name in found) == (task == 0)
        for name in kept:
            parts = [found[f"features.{name}"].double(), *([found[f"weights.{name}"].double()] if task == 0 else [])]
            if task == 0:
                np.testing.assert_allclose(span(parts[1]), span(kept[name]), atol=1e-6)
            assert torch.allclose(parts[0] @ kept[name].T, torch.zeros(()).double(), atol=1e-5)
            kept[name] = torch.cat([kept[name], parts[0]])
            assert torch.allclose(kept[name] @ kept[name].T, torch.eye(len(kept[name])).double(), atol=1e-5)
        assert "orthonormal" in KeepLora.check_file(file.parent, {})
        files.append(file)
        base = merged(model)
    # the base as a whole has moved in none of its first directions
    for name in kept:
        moved = (base.get_submodule(name).weight - first_weights[f"{name}.weight"]).detach().double()
        rows = load_file(files[0])[f"weights.{name}"].double()
        assert (moved @ rows.T).norm() < 1e-5 * moved.norm()


def test_earlier_features_are_answered_as_before(tiny_llama, tmp_path):
    """The kept features of a task pass a layer as they did, whatever is learned later."""
    base = tiny_llama()
    model, file = train(base, tmp_path / "first", keeplora_feature_energy=0.9)
    model, _ = train(merged(model), tmp_path / "second", [file], seed=2)
    for name, layer in adapted_layers(model).items():
        rows = load_file(file)[f"features.{name}"]
        assert (change_of(layer) @ rows.T).abs().max() < 1e-6


def test_a_training_that_goes_on_keeps_its_directions(tiny_llama, tmp_path):
    model, _ = train(tiny_llama(), tmp_path / "a")
    before = {name: layer.lora_A["default"].weight.detach().clone() for name, layer in adapted_layers(model).items()}
    model, _ = train(None, tmp_path / "b", seed=3, model=model)
    for name, layer in adapted_layers(model).items():
        assert torch.equal(layer.lora_A["default"].weight, before[name])


def test_the_function_is_the_bases_at_the_start(tiny_llama, tmp_path):
    model = lora(tiny_llama())
    tokens = torch.arange(4, 20)[None]
    expected = copy.deepcopy(model).unload()(tokens).logits
    data = task_data(model, tmp_path, samples())

    class NoGradients:
        def transform(self, parameter, change):
            assert change(torch.ones(2)).sum() == 0

    KeepLora(ALL).begin(model, [], NoGradients(), data)
    torch.testing.assert_close(model.eval()(tokens).logits, expected)


def test_layers_without_a_free_direction_are_told_and_learn_nothing(tiny_llama, tmp_path, caplog):
    model, _ = train(tiny_llama(), tmp_path / "a", keeplora_weight_energy=1.0)
    # a down_proj has 24 inputs and 16 outputs: its weight leaves 8 directions free; the others have none
    assert "4 of 6 layers have fewer free directions than their rank" in caplog.text
    for name, layer in adapted_layers(model).items():
        assert bool(change_of(layer).any()) == name.endswith("down_proj")


@pytest.mark.parametrize("key", sorted(_REFUSED))
def test_what_it_cannot_work_with_is_refused(key):
    (error,) = KeepLora.errors({key: 1})
    assert error.startswith(f"`{key}` cannot be combined with `cl_method: keeplora`")
    assert KeepLora.errors({key: 0}) == []


@pytest.mark.parametrize(
    ("keys", "config"),
    [({"bf16": True}, {"bf16": {"enabled": "auto"}}), ({}, {"bf16": {"enabled": True}}), ({"fp16": True}, {})],
)
def test_deepspeed_that_rounds_a_is_refused(keys, config):
    (error,) = KeepLora.errors({"deepspeed": config, **keys})
    assert "`cl_method: keeplora`: A is rounded to 16 bit" in error
    assert KeepLora.errors(keys) == KeepLora.errors({"deepspeed": {"bf16": {"enabled": "auto"}}}) == []


def test_layers_that_are_not_linear_and_files_of_others_are_refused(tiny_llama, tmp_path):
    with pytest.raises(ValueError, match=r"model\.embed_tokens is a Embedding"):
        adapted_layers(lora(tiny_llama(), target_modules=["embed_tokens"]))
    _, file = train(tiny_llama(), tmp_path / "a")
    other = lora(tiny_llama(), target_modules=["q_proj"])
    with pytest.raises(ValueError, match=r"is of other layers than this task's, .* Use one `lora_target`"):
        KeepLora(ALL).begin(other, [file], None, None)
    found = load_file(file)
    narrow = {name: rows[:, :-1] for name, rows in found.items()}
    write_left(narrow, tmp_path / "narrow.safetensors", "sefe_plugin.directions")
    with pytest.raises(ValueError, match=r"have shape \(\d+, \d+\), not \d+ columns"):
        KeepLora(ALL).begin(lora(tiny_llama()), [tmp_path / "narrow.safetensors"], None, None)
    with pytest.raises(FileNotFoundError, match="Train the earlier task first"):
        KeepLora(ALL).begin(lora(tiny_llama()), [tmp_path / "none"], None, None)
    (error,) = KeepLora.errors({"keeplora_directions": [str(tmp_path / "none")]})
    assert error.startswith("`keeplora_directions`: the file ")


def test_what_a_task_has_left_is_checked(tiny_llama, tmp_path):
    _, file = train(tiny_llama(), tmp_path)
    found = load_file(file)
    assert KeepLora.check_file(tmp_path, {}).endswith(" directions, orthonormal")
    name = next(name for name, rows in found.items() if name.startswith("features.") and len(rows))
    of_weights = found[name.replace("features.", "weights.")]
    for odd in ({name: 2 * found[name]}, {name: of_weights[:1].clone()}):
        write_left({**found, **odd}, file, "sefe_plugin.directions")
        with pytest.raises(ValueError, match="has no set of orthonormal directions"):
            KeepLora.check_file(tmp_path, {})
    write_left({key: rows for key, rows in found.items() if key != name}, file, "sefe_plugin.directions")
    with pytest.raises(ValueError, match="is of other layers than the adapter beside it"):
        KeepLora.check_file(tmp_path, {})
    save_file(found, file)
    with pytest.raises(ValueError, match=r"not 'sefe_plugin\.directions'"):
        KeepLora.check_file(tmp_path, {})
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match="damaged"):
        KeepLora.check_file(tmp_path, {})

import copy
import json
import os
import shutil
import subprocess
import textwrap

import pytest
import torch
from peft import LoraConfig, LoraModel, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import nn

from sefe_plugin.methods.reglora import RegLoraConfig, RegLoraModel, find_key_elements, find_reglora_model, union
from sefe_plugin.methods.reglora.codec import decode
from sefe_plugin.methods.reglora.files import read_key_elements
from sefe_plugin.methods.reglora.key_elements import key_count


def factors(model):
    """A and B of every adapted matrix, in double precision, by the path of its module in the base model."""
    weights = dict(model.base_model.model.named_parameters())
    names = [name.removesuffix(".lora_A.default.weight") for name in weights if name.endswith("lora_A.default.weight")]
    return {
        name: (weights[f"{name}.lora_A.default.weight"].double(), weights[f"{name}.lora_B.default.weight"].double())
        for name in names
    }


def penalty_by_definition(model, files, reduction, reglora_weight):
    """lambda * R in double precision, from dense weight changes and the lists of positions of every task."""
    per_matrix = []
    for name, (A, B) in factors(model).items():
        change = (B @ A).abs().flatten()
        lists = [decode(read_key_elements(file).codes[name], change.numel()) for file in files]
        if reduction == "official_mean":
            per_matrix.append(change[torch.cat(lists)].mean())
        else:
            per_matrix.append(torch.stack([change[indices].mean() for indices in lists]).sum())
    return reglora_weight * torch.stack(per_matrix).mean()


def lora_parameters(model):
    return [parameter for name, parameter in model.named_parameters() if "lora_" in name]


def checksum(model, file):
    """The checksum over all that the file of the model's key elements holds."""
    find_reglora_model(model).save_key_elements(file)
    with safe_open(file, framework="pt") as archive:
        return archive.metadata()["content_sha256"]


@pytest.mark.parametrize("reduction", ["official_mean", "per_task_sum"])
@pytest.mark.parametrize("tasks", [1, 2, 3])
def test_penalty_equals_its_definition(tiny_reglora, key_element_files, tasks, reduction):
    model = tiny_reglora(reglora_key_ratio=0.1, reglora_weight=40.0, reglora_reduction=reduction)
    reglora = find_reglora_model(model)
    reglora.load_key_elements(key_element_files[:tasks])
    expected = penalty_by_definition(model, key_element_files[:tasks], reduction, 40.0)
    expected_grads = torch.autograd.grad(expected, lora_parameters(model))

    value = reglora.penalty()
    assert value.dtype == torch.float32
    assert value.shape == ()
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    grads = torch.autograd.grad(value, lora_parameters(model))
    torch.testing.assert_close(grads, expected_grads, rtol=1e-4, atol=1e-5)

    assert reglora.accumulate_penalty_gradients() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close([p.grad for p in lora_parameters(model)], list(grads), rtol=0, atol=0)


def test_the_reductions_are_equal_for_one_task_and_differ_by_the_number_of_tasks(tiny_reglora, key_element_files):
    mean, per_task = (
        find_reglora_model(tiny_reglora(reglora_key_ratio=0.1, reglora_reduction=name))
        for name in ("official_mean", "per_task_sum")
    )
    for tasks in (1, 3):
        mean.load_key_elements(key_element_files[:tasks])
        per_task.load_key_elements(key_element_files[:tasks])
        torch.testing.assert_close(per_task.penalty(), tasks * mean.penalty(), rtol=1e-6, atol=0)


def test_an_element_chosen_twice_counts_twice(tiny_reglora, tmp_path, key_element_files):
    again = tiny_reglora(seed=100, reglora_key_ratio=0.1)
    with torch.no_grad():
        lora_parameters(again)[0].mul_(-1)  # another adapter with the key elements of the first
    find_reglora_model(again).save_key_elements(tmp_path / "again.safetensors")
    once, twice = (
        find_reglora_model(tiny_reglora(reglora_key_ratio=0.1, reglora_reduction="per_task_sum")) for _ in range(2)
    )
    once.load_key_elements(key_element_files[:1])
    twice.load_key_elements([key_element_files[0], tmp_path / "again.safetensors"])
    torch.testing.assert_close(twice.penalty(), 2 * once.penalty(), rtol=1e-6, atol=0)


def test_without_earlier_tasks_there_is_no_penalty(tiny_reglora, key_element_files):
    model = tiny_reglora(reglora_key_ratio=0.1)
    reglora = find_reglora_model(model)
    for files in ([], key_element_files, []):
        reglora.load_key_elements(files)
    assert reglora.penalty() == 0
    assert reglora.accumulate_penalty_gradients() == 0
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_the_shares_of_processes_average_to_the_whole(tiny_reglora, key_element_files, processes):
    whole, *shares = (tiny_reglora(reglora_key_ratio=0.1) for _ in range(1 + processes))
    for model in (whole, *shares):
        find_reglora_model(model).load_key_elements(key_element_files)
    expected = find_reglora_model(whole).accumulate_penalty_gradients(scale=2.0)
    values = [
        find_reglora_model(model).accumulate_penalty_gradients(scale=2.0, share=(process, processes))
        for process, model in enumerate(shares)
    ]
    torch.testing.assert_close(sum(values), expected, rtol=1e-6, atol=0)
    for parameter, *others in zip(*map(lora_parameters, (whole, *shares)), strict=True):
        grads = [other.grad for other in others if other.grad is not None]
        assert len(grads) == 1
        torch.testing.assert_close(grads[0] / processes, parameter.grad, rtol=1e-6, atol=0)


def test_key_elements_in_host_memory_are_penalised_alike(tiny_reglora, key_element_files):
    reglora = find_reglora_model(tiny_reglora(reglora_key_ratio=0.1))
    reglora.load_key_elements(key_element_files)
    expected = reglora.penalty()
    reglora.load_key_elements(key_element_files, offload="cpu")
    assert torch.equal(reglora.penalty(), expected)


def test_another_place_is_refused(tiny_reglora, key_element_files):
    with pytest.raises(ValueError, match="`offload` must be one of none, cpu; got 'disk'"):
        find_reglora_model(tiny_reglora(reglora_key_ratio=0.1)).load_key_elements(key_element_files, offload="disk")


@pytest.mark.parametrize(
    ("decoded_elements", "offload", "most"), [(0, "none", 1), (2**17, "none", 6), (2**17, "cpu", 1)]
)
def test_bytes_per_element_and_task_in_memory(
    tiny_reglora, key_element_files, monkeypatch, decoded_elements, offload, most
):
    monkeypatch.setattr(union, "DECODED_ELEMENTS", decoded_elements)  # of which this model's matrices have fewer
    reglora = find_reglora_model(tiny_reglora(reglora_key_ratio=0.1))
    reglora.load_key_elements(key_element_files, offload)
    elements = sum(
        key_count(0.1, *shape) for file in key_element_files for shape in read_key_elements(file).shapes.values()
    )
    kept = sum(
        tensor.nbytes
        for _, keys in reglora._key_elements
        for tensor in [keys.codes, *(t for panel in keys.decoded or () for t in (panel.positions, panel.times))]
    )
    assert most - 1 < kept / elements <= 1.1 * most


def test_weight_zero_costs_nothing(tiny_reglora, key_element_files):
    model = tiny_reglora(reglora_key_ratio=0.1, reglora_weight=0)
    find_reglora_model(model).load_key_elements(key_element_files)
    assert find_reglora_model(model).accumulate_penalty_gradients() == 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradients_are_added_scaled_and_only_where_trainable(tiny_reglora, key_element_files):
    model = tiny_reglora(reglora_key_ratio=0.1)
    reglora = find_reglora_model(model)
    reglora.load_key_elements(key_element_files)
    grads = torch.autograd.grad(reglora.penalty(), lora_parameters(model))
    frozen, first, *_ = lora_parameters(model)
    frozen.requires_grad_(False)
    first.grad = torch.ones_like(first)
    value = reglora.accumulate_penalty_gradients(scale=8.0)
    assert value == pytest.approx(reglora.penalty().item(), rel=1e-6)
    assert frozen.grad is None
    torch.testing.assert_close(first.grad, 1 + 8 * grads[1], rtol=1e-6, atol=1e-6)
    for parameter, grad in zip(lora_parameters(model)[2:], grads[2:], strict=True):
        torch.testing.assert_close(parameter.grad, 8 * grad, rtol=1e-6, atol=0)
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if "lora_" not in name)


def test_bfloat16_adapter(tiny_reglora, tiny_llama, key_element_files):
    model = tiny_reglora(
        base=tiny_llama().bfloat16(), reglora_key_ratio=0.1, reglora_weight=40.0, autocast_adapter_dtype=False
    )
    assert {parameter.dtype for parameter in lora_parameters(model)} == {torch.bfloat16}
    reglora = find_reglora_model(model)
    reglora.load_key_elements(key_element_files)
    expected = penalty_by_definition(model, key_element_files, "official_mean", 40.0)
    torch.testing.assert_close(reglora.penalty().double(), expected, rtol=1e-6, atol=0)
    reglora.accumulate_penalty_gradients()
    for parameter, grad in zip(
        lora_parameters(model), torch.autograd.grad(expected, lora_parameters(model)), strict=True
    ):
        assert parameter.grad.dtype == torch.bfloat16
        torch.testing.assert_close(parameter.grad, grad, rtol=2**-7, atol=1e-6)  # one rounding to bfloat16


def test_saved_key_elements_are_those_of_every_matrix(tiny_reglora, tmp_path):
    model = tiny_reglora(reglora_key_ratio=0.1)
    file = tmp_path / "task.safetensors"
    find_reglora_model(model).save_key_elements(file)
    elements = read_key_elements(file)
    assert sorted(elements.codes) == sorted(
        f"model.layers.{layer}.{module}"
        for layer in (0, 1)
        for module in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
    )
    assert elements.shapes["model.layers.1.mlp.down_proj"] == (16, 24)
    for name, (A, B) in factors(model).items():
        assert torch.equal(decode(elements.codes[name], len(B) * A.shape[1]), find_key_elements(A, B, 0.1))


def drawn_positions(model, file, seed):
    find_reglora_model(model).save_key_elements(file, seed=seed)
    elements = read_key_elements(file)
    assert elements.selection == "random"
    return {name: decode(codes, 10**6).tolist() for name, codes in elements.codes.items()}


def test_random_key_elements_depend_on_seed_task_and_matrix_only(tiny_reglora, tmp_path):
    first, other = (tiny_reglora(seed=seed, reglora_key_ratio=0.1, reglora_selection="random") for seed in (0, 1))
    drawn = drawn_positions(first, tmp_path / "1", 42)
    assert drawn_positions(other, tmp_path / "2", 42) == drawn  # whatever was learned
    again = drawn_positions(other, tmp_path / "3", 43)
    assert all(again[name] != positions for name, positions in drawn.items())
    assert drawn["model.layers.0.self_attn.q_proj"] != drawn["model.layers.1.self_attn.q_proj"]
    find_reglora_model(first).load_key_elements([tmp_path / "2"])
    second = drawn_positions(first, tmp_path / "4", 42)
    assert all(second[name] != positions for name, positions in drawn.items())


def test_random_key_elements_are_penalised_by_the_same_rule_and_not_mixed_with_top_ones(tiny_reglora, tmp_path):
    files = [tmp_path / "1", tmp_path / "2"]
    for seed, file in enumerate(files):
        earlier = tiny_reglora(seed=seed, reglora_key_ratio=0.1, reglora_selection="random")
        find_reglora_model(earlier).save_key_elements(file, seed=seed)
    model = tiny_reglora(seed=7, reglora_key_ratio=0.1, reglora_selection="random", reglora_weight=40.0)
    find_reglora_model(model).load_key_elements(files)
    expected = penalty_by_definition(model, files, "official_mean", 40.0)
    torch.testing.assert_close(find_reglora_model(model).penalty().double(), expected, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="chosen with reglora_selection 'random'"):
        find_reglora_model(tiny_reglora(reglora_key_ratio=0.1)).load_key_elements(files)


@pytest.mark.parametrize("large", [0, 2**60])
def test_with_ratio_one_the_penalty_is_plain_l1(tiny_reglora, tmp_path, monkeypatch, large):
    """The control "plain L1": lambda times the mean over matrices of the mean |B A|, however many earlier tasks."""
    from sefe_plugin.methods.reglora import penalty

    monkeypatch.setattr(penalty, "_LARGE", large)  # both ways to evaluate it
    files = [tmp_path / "1", tmp_path / "2", tmp_path / "3"]
    for seed, file in enumerate(files):
        find_reglora_model(tiny_reglora(seed=seed, reglora_key_ratio=1.0)).save_key_elements(file)
    model = tiny_reglora(seed=7, reglora_key_ratio=1.0, reglora_weight=40.0)
    find_reglora_model(model).load_key_elements(files)
    expected = 40 * torch.stack([(B @ A).abs().mean() for A, B in factors(model).values()]).mean()
    expected_grads = torch.autograd.grad(expected, lora_parameters(model))
    assert find_reglora_model(model).accumulate_penalty_gradients() == pytest.approx(expected.item(), rel=1e-6)
    grads = [parameter.grad for parameter in lora_parameters(model)]
    torch.testing.assert_close(grads, list(expected_grads), rtol=1e-4, atol=1e-5)  # sums of up to 384 terms in fp32


def test_names_do_not_depend_on_the_way_modules_are_targeted_or_wrapped(tiny_reglora, tmp_path):
    suffixes = tiny_reglora(target_modules=["q_proj"])
    paths = tiny_reglora(target_modules=[f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)])
    pattern = tiny_reglora(target_modules=r".*\.q_proj")
    wrapped = nn.Sequential(nn.Sequential(suffixes))
    contents = {checksum(model, tmp_path / "task.safetensors") for model in (suffixes, paths, pattern, wrapped)}
    assert len(contents) == 1


def test_another_adapter_name_changes_nothing(tiny_llama, tmp_path):
    config = RegLoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    contents = set()
    for name in ("default", "current"):
        base = tiny_llama()
        torch.manual_seed(0)
        model = get_peft_model(base, copy.deepcopy(config), adapter_name=name)
        contents.add(checksum(model, tmp_path / "task.safetensors"))
    assert len(contents) == 1


def test_a_process_that_does_not_write_leaves_no_file(tiny_reglora, tmp_path):
    find_reglora_model(tiny_reglora()).save_key_elements(tmp_path / "task.safetensors", write=False)
    assert list(tmp_path.iterdir()) == []


def test_the_penalty_is_no_part_of_a_loss_under_zero3(tiny_reglora, monkeypatch):
    from sefe_plugin.methods.reglora import model

    monkeypatch.setattr(model, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(RuntimeError, match="Train with SefeCallback"):
        find_reglora_model(tiny_reglora()).penalty()


def test_an_untrained_adapter_is_pointed_out(tiny_llama, tmp_path, caplog):
    model = get_peft_model(tiny_llama(), RegLoraConfig(target_modules=["q_proj"]))
    find_reglora_model(model).save_key_elements(tmp_path / "task.safetensors")
    assert "untrained" in caplog.text


def test_a_diverged_adapter_is_refused_by_name(tiny_reglora, tmp_path):
    model = tiny_reglora(target_modules=["v_proj"])
    with torch.no_grad():
        model.base_model.model.model.layers[1].self_attn.v_proj.lora_B["default"].weight[3] = float("nan")
    with pytest.raises(ValueError, match=r"'model.layers.1.self_attn.v_proj'.*not finite"):
        find_reglora_model(model).save_key_elements(tmp_path / "task.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_refused_file_leaves_what_was_loaded(tiny_reglora, key_element_files):
    reglora = find_reglora_model(tiny_reglora(reglora_key_ratio=0.1))
    reglora.load_key_elements(key_element_files[:1])
    before = reglora.penalty()
    key_element_files[2].write_bytes(b"")
    with pytest.raises(ValueError, match=r"task2.safetensors: damaged"):
        reglora.load_key_elements(key_element_files)
    assert torch.equal(reglora.penalty(), before)


def test_key_elements_that_do_not_fit_are_refused(tiny_reglora, key_element_files):
    other_ratio = find_reglora_model(tiny_reglora(reglora_key_ratio=0.2))
    with pytest.raises(ValueError, match=r"task0.safetensors: found with reglora_key_ratio 0.1"):
        other_ratio.load_key_elements(key_element_files)
    other_modules = find_reglora_model(tiny_reglora(reglora_key_ratio=0.1, target_modules=["q_proj"]))
    with pytest.raises(ValueError, match=r"'model.layers.0.mlp.down_proj' is adapted in the file"):
        other_modules.load_key_elements(key_element_files)


def test_one_task_given_twice_is_refused(tiny_reglora, key_element_files):
    reglora = find_reglora_model(tiny_reglora(reglora_key_ratio=0.1))
    with pytest.raises(ValueError, match=r"task1.safetensors is given twice"):
        reglora.load_key_elements([key_element_files[1], key_element_files[0], key_element_files[1]])


def test_one_task_under_two_names_is_warned_about(tiny_reglora, key_element_files, tmp_path, caplog):
    reglora = find_reglora_model(tiny_reglora(reglora_key_ratio=0.1))
    reglora.load_key_elements(key_element_files)
    assert "equal adapters" not in caplog.text
    shutil.copy(key_element_files[0], tmp_path / "again.safetensors")
    reglora.load_key_elements([*key_element_files, tmp_path / "again.safetensors"])
    (message,) = [record.getMessage() for record in caplog.records if "equal adapters" in record.getMessage()]
    assert f"{key_element_files[0]} and {tmp_path / 'again.safetensors'}" in message


def test_tasks_that_learned_nothing_count_too(tiny_reglora, tmp_path, caplog):
    """After a run of one warm-up step B is 0, so two tasks of one seed end in the same adapter."""
    reglora = find_reglora_model(tiny_reglora(reglora_key_ratio=0.1))
    with torch.no_grad():
        for name, parameter in reglora.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    for name in "ab":
        reglora.save_key_elements(tmp_path / name)
    reglora.load_key_elements([tmp_path / "a", tmp_path / "b"])
    assert reglora.penalty() == 0
    assert "equal adapters" in caplog.text


def test_more_tasks_than_a_byte_counts_are_refused(tiny_reglora, key_element_files):
    with pytest.raises(ValueError, match="at most 255"):
        find_reglora_model(tiny_reglora()).load_key_elements(256 * key_element_files[:1])


def test_a_second_adapter_is_refused(tiny_reglora):
    model = tiny_reglora()
    with pytest.raises(ValueError, match="one adapter"):
        model.add_adapter("second", RegLoraConfig(target_modules=["q_proj"]))
    assert list(model.peft_config) == ["default"]


def test_a_plain_lora_that_is_not_merged_is_refused(tiny_llama):
    base = get_peft_model(tiny_llama(), LoraConfig(target_modules=["q_proj"])).base_model.model
    with pytest.raises(ValueError, match="one adapter"):
        get_peft_model(base, RegLoraConfig(target_modules=["q_proj"]), adapter_name="second")


def test_an_adapter_of_another_name_may_follow_a_merged_one(tiny_reglora, tmp_path, key_element_files):
    base = tiny_reglora().merge_and_unload()
    config = RegLoraConfig(
        r=3, target_modules=["q_proj", "v_proj", "down_proj"], reglora_key_ratio=0.1, reglora_weight=40.0
    )
    model = get_peft_model(base, config, adapter_name="second")
    with torch.no_grad():
        for parameter in lora_parameters(model):
            parameter.normal_()
    reglora = find_reglora_model(model)
    reglora.load_key_elements(key_element_files)
    assert reglora.accumulate_penalty_gradients() > 0
    assert all(parameter.grad.any() for parameter in lora_parameters(model))
    reglora.save_key_elements(tmp_path / "task.safetensors")
    assert read_key_elements(tmp_path / "task.safetensors").key_ratio == 0.1


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Embedding(5, 4), "inner' is Embedding.*exclude_modules"),
        (nn.Conv2d(2, 3, 3), "inner' is Conv2d.*exclude_modules"),
        (nn.Conv1d(2, 3, 1), "inner' is Conv1d.*exclude_modules"),
        (nn.LayerNorm(4), "LayerNorm.*is not supported"),  # by PEFT
    ],
)
def test_modules_without_a_matrix_are_refused_and_leave_the_base_as_it_was(module, message):
    base = nn.Sequential(nn.ModuleDict({"first": nn.Linear(4, 4), "inner": module}))
    with pytest.raises(ValueError, match=message):
        get_peft_model(base, RegLoraConfig(target_modules=["first", "inner"]))
    assert not any(isinstance(module, LoraLayer) for module in base.modules())
    assert base[0]["inner"] is module
    model = get_peft_model(base, RegLoraConfig(target_modules=["first"]))
    assert len(lora_parameters(model)) == 2


def test_a_model_without_reglora_is_refused(tiny_llama):
    with pytest.raises(ValueError, match="LlamaForCausalLM has no RegLoRA adapter"):
        find_reglora_model(tiny_llama())


INPUT = torch.arange(4, 24).view(2, 10)


def test_save_load_merge(tiny_reglora, tiny_llama, tmp_path):
    model = tiny_reglora(r=4, lora_alpha=12, use_rslora=True).eval()
    expected = model(INPUT).logits
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LORA"

    plain = PeftModel.from_pretrained(tiny_llama(), tmp_path)
    assert type(plain.base_model) is LoraModel
    assert torch.equal(plain(INPUT).logits, expected)

    config = RegLoraConfig.from_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny_llama(), tmp_path, config=config, is_trainable=True)
    assert type(again.base_model) is RegLoraModel
    assert all(parameter.requires_grad for parameter in lora_parameters(again))
    assert torch.equal(again.eval()(INPUT).logits, expected)

    merged = model.merge_and_unload()
    assert not any(isinstance(module, LoraModel) for module in merged.modules())
    torch.testing.assert_close(merged(INPUT).logits, expected, rtol=1e-4, atol=1e-5)


def test_modules_to_save_are_trained_saved_and_not_penalised(tiny_reglora, tiny_llama, tmp_path, key_element_files):
    model = tiny_reglora(reglora_key_ratio=0.1, modules_to_save=["lm_head"]).eval()
    head = model.base_model.model.lm_head.modules_to_save["default"].weight
    assert head.requires_grad
    with torch.no_grad():
        head.normal_()
    find_reglora_model(model).load_key_elements(key_element_files)
    find_reglora_model(model).accumulate_penalty_gradients()
    assert head.grad is None
    model.save_pretrained(tmp_path)
    assert torch.equal(PeftModel.from_pretrained(tiny_llama(), tmp_path)(INPUT).logits, model(INPUT).logits)


def test_the_saved_adapter_loads_without_the_plugin_and_without_a_warning(
    tiny_reglora, tiny_llama, plain_python, tmp_path
):
    model = tiny_reglora().eval()
    model.save_pretrained(tmp_path / "adapter")
    tiny_llama().save_pretrained(tmp_path / "base")
    torch.save(model(INPUT).logits, tmp_path / "logits.pt")
    script = """
        import sys, warnings
        sys.modules["sefe_plugin"] = None  # importing it now fails
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        folder = sys.argv[1]
        base = AutoModelForCausalLM.from_pretrained(f"{folder}/base")
        warnings.simplefilter("error")
        model = PeftModel.from_pretrained(base, f"{folder}/adapter")
        logits = model(torch.arange(4, 24).view(2, 10)).logits
        assert torch.equal(logits, torch.load(f"{folder}/logits.pt", weights_only=True)), logits
        assert type(model.base_model).__name__ == "LoraModel"
    """
    result = subprocess.run(
        [plain_python, "-c", textwrap.dedent(script), str(tmp_path)],
        env={**os.environ, "SEFE_PLUGIN_DISABLE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr


def test_a_copy_is_independent(tiny_reglora, key_element_files):
    model = tiny_reglora(reglora_key_ratio=0.1)
    find_reglora_model(model).load_key_elements(key_element_files)
    copied = copy.deepcopy(model)
    assert torch.equal(find_reglora_model(copied).penalty(), find_reglora_model(model).penalty())
    find_reglora_model(copied).load_key_elements([])
    assert find_reglora_model(model).penalty() > 0


def test_key_elements_take_no_part_in_the_state(tiny_reglora, key_element_files):
    model = tiny_reglora(reglora_key_ratio=0.1)
    names = set(model.state_dict()), {name for name, _ in model.named_buffers()}
    find_reglora_model(model).load_key_elements(key_element_files)
    assert (set(model.state_dict()), {name for name, _ in model.named_buffers()}) == names


def test_metadata_holds_the_fingerprint_of_the_adapter(tiny_reglora, tmp_path):
    prints = []
    for seed in (0, 0, 1):
        find_reglora_model(tiny_reglora(seed=seed)).save_key_elements(tmp_path / "task.safetensors")
        with safe_open(tmp_path / "task.safetensors", framework="pt") as archive:
            prints.append(archive.metadata()["adapter_sha256"])
    assert prints[0] == prints[1] != prints[2]


def steps(model, count=3, each=lambda model: None, optimizer=torch.optim.AdamW):
    """A loop that knows nothing of RegLoRA, but calls `each` in every step."""
    model.train()
    optimizer = optimizer([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(count):
        optimizer.zero_grad()
        loss = model(input_ids=torch.tensor([[1, 5, 6, 7]]), labels=torch.tensor([[1, 5, 6, 7]])).loss
        (loss + (each(model) or 0)).backward()
        optimizer.step()


WARNING = "This RegLoRA adapter is trained as plain LoRA"


def told(caplog) -> list[str]:
    """What the plugin has said; other packages may say more."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("sefe_plugin")]


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}])
def test_a_training_without_the_penalty_is_warned_about_once(tiny_reglora, caplog, options):
    steps(tiny_reglora(), optimizer=lambda parameters, lr: torch.optim.AdamW(parameters, lr, **options))
    assert [line[: len(WARNING)] for line in told(caplog)] == [WARNING]


@pytest.mark.parametrize(
    "each",
    [
        lambda model: find_reglora_model(model).penalty(),
        lambda model: find_reglora_model(model).accumulate_penalty_gradients() * 0,
        lambda model: find_reglora_model(model).load_key_elements([]),
    ],
)
def test_loops_that_drive_it_are_not_warned_about(tiny_reglora, caplog, each):
    steps(tiny_reglora(), each=each)
    assert not told(caplog)


def test_answers_are_not_taken_for_a_training(tiny_reglora, caplog):
    model = tiny_reglora()
    for _ in range(3):
        model.train()(input_ids=torch.tensor([[1, 5]]))
        model.eval()(input_ids=torch.tensor([[1, 5]]))
    assert not told(caplog)

"""EWC: Fisher information against finite differences, the penalty against float64, and what it holds."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainingArguments

from sefe_plugin.methods.callback import MethodCallback
from sefe_plugin.methods.ewc import PENALTY_LOG, Ewc, fisher_information
from sefe_plugin.methods.gradients import Gradients
from sefe_plugin.methods.left_file import read_left, write_left
from sefe_plugin.methods.task_data import TaskData


CONFIG = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "down_proj"], "lora_dropout": 0.5}


def samples(seed=0, count=8):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, 10, (count,), generator=generator).tolist()
    rows = [torch.randint(4, 64, (length,), generator=generator).tolist() for length in lengths]
    return [{"input_ids": row, "labels": [-100, -100, *row[2:]]} for row in rows]


def collate(rows):
    width = max(len(row["input_ids"]) for row in rows)
    return {
        "input_ids": torch.tensor([row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in rows]),
        "labels": torch.tensor([row["labels"] + [-100] * (width - len(row["labels"])) for row in rows]),
    }


@pytest.fixture
def adapter(tiny_llama):
    """Make a LoRA with a B that is not 0."""
    torch.manual_seed(0)
    model = get_peft_model(tiny_llama(), LoraConfig(**CONFIG))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model


def task_data(model, folder, rows):
    trainer = Trainer(model, TrainingArguments(str(folder), use_cpu=True), train_dataset=rows, data_collator=collate)
    return TaskData(trainer.get_train_dataloader(), trainer.args)


def test_fisher_information_is_the_mean_square_of_finite_differences(adapter, tmp_path):
    rows = samples(count=3)
    trained = {name: p for name, p in adapter.named_parameters() if p.requires_grad}
    fisher = fisher_information(adapter, trained, task_data(adapter, tmp_path, rows), [0, 1, 2])
    adapter = adapter.double().eval()

    def likelihoods():
        with torch.no_grad():
            found = []
            for row in rows:
                logits = adapter(torch.tensor([row["input_ids"]])).logits[0, :-1].log_softmax(-1)
                found.append(sum(logits[i, label] for i, label in enumerate(row["labels"][1:]) if label != -100))
            return torch.stack(found)

    for name, parameter in adapter.named_parameters():
        if not parameter.requires_grad:
            continue
        # the model's norms compute in fp32, whose rounding hides small differences
        for flat in fisher[name].flatten().topk(2).indices.tolist():
            place = divmod(flat, parameter.shape[1])
            kept, step = float(parameter[place].detach()), 1e-2
            values = []
            for moved in (kept + step, kept - step):
                with torch.no_grad():
                    parameter[place] = moved
                values.append(likelihoods())
            with torch.no_grad():
                parameter[place] = kept
            expected = ((values[0] - values[1]) / (2 * step)).square().mean()
            assert float(fisher[name][place]) == pytest.approx(float(expected), rel=2e-2), (name, place)


def test_what_a_sample_does_not_use_has_no_fisher_information(adapter, tmp_path):
    trained = {name: p for name, p in adapter.named_parameters() if p.requires_grad}
    unused = torch.nn.Parameter(torch.ones(3))
    data = task_data(adapter, tmp_path, samples(count=2))
    fisher = fisher_information(adapter, {**trained, "unused": unused}, data, [0, 1])
    assert not fisher["unused"].any() and all(fisher[name].any() for name in trained)


def test_samples_are_drawn_once_each_and_alike(adapter, tmp_path):
    data = task_data(adapter, tmp_path, samples(count=8))
    drawn = data.draw(5, seed=3)
    assert len(set(drawn)) == 5 and drawn == data.draw(5, seed=3) != data.draw(5, seed=4)
    assert sorted(data.draw(100, seed=0)) == list(range(8))


def train(model, folder, earlier=(), steps=4, seed=1, **options):
    args = TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
    )
    callback = MethodCallback(Ewc(options), earlier)
    trainer = Trainer(model, args, train_dataset=samples(seed), data_collator=collate, callbacks=[callback])
    trainer.train()
    model.save_pretrained(folder)
    return folder / "fisher.safetensors", trainer.state.log_history


def test_the_penalty_and_its_gradient_are_those_of_float64(adapter, tmp_path):
    files = [train(adapter, tmp_path / str(i), seed=i)[0] for i in range(2)]
    with torch.no_grad():
        for parameter in adapter.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    trained = {name: p for name, p in adapter.named_parameters() if p.requires_grad}
    theta = {name: p.detach().double().requires_grad_() for name, p in trained.items()}
    expected = 0.0
    for file in files:
        kept = {name: value.double() for name, value in load_file(file).items()}
        expected += sum(
            (kept[f"fisher.{name}"] * (value - kept[f"anchor.{name}"]).square()).sum() for name, value in theta.items()
        )
    expected = 0.7 / 2 * expected
    expected.backward()
    added = {}
    gradients = Gradients(lambda parameter, grad: added.update({id(parameter): grad}))
    method = Ewc({"ewc_weight": 0.7})
    method.begin(adapter, files, gradients, None)
    method.on_step_begin(gradients)
    assert float(gradients.take_logged()[PENALTY_LOG]) == pytest.approx(float(expected.detach()), rel=1e-4)
    for name, parameter in trained.items():
        grad = theta[name].grad
        torch.testing.assert_close(added[id(parameter)].double(), grad, rtol=1e-4, atol=1e-5 * float(grad.abs().max()))


def test_the_penalty_is_exact_near_the_weights_that_were_left(adapter, tmp_path):
    file, _ = train(adapter, tmp_path)
    kept = {name: value.double() for name, value in load_file(file).items()}
    for step in (0.0, 1e-6):
        expected = 0.0
        with torch.no_grad():
            for name, parameter in adapter.named_parameters():
                if parameter.requires_grad:
                    parameter += step
                    change = parameter.double() - kept[f"anchor.{name}"]
                    expected += 0.5 * float((kept[f"fisher.{name}"] * change.square()).sum())
        gradients, method = Gradients(lambda parameter, grad: None), Ewc({"ewc_weight": 1.0})
        method.begin(adapter, [file], gradients, None)
        method.on_step_begin(gradients)
        assert float(gradients.take_logged()[PENALTY_LOG]) == pytest.approx(expected, rel=0.2, abs=0)


def test_what_a_task_has_left_is_checked_with_embeddings_too(tiny_llama, tmp_path):
    config = LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"], modules_to_save=["lm_head"])
    train(get_peft_model(tiny_llama(), config), tmp_path, steps=1)
    assert Ewc.check_file(tmp_path, {}).startswith("its sum is right, and it is of this adapter")


def test_a_higher_weight_holds_the_weights_of_the_task_before(adapter, tiny_llama, tmp_path):
    file, _ = train(adapter, tmp_path / "first", seed=1)
    anchor = {name.removeprefix("anchor."): v for name, v in load_file(file).items() if name.startswith("anchor.")}
    distances = []
    for weight in (0.0, 1.0, 1e4):
        model = PeftModel.from_pretrained(tiny_llama(), tmp_path / "first", is_trainable=True)
        _, log = train(model, tmp_path / f"{weight}", [file], steps=10, seed=2, ewc_weight=weight)
        fisher = load_file(file)
        distances.append(
            sum(
                float((fisher[f"fisher.{name}"] * (p.detach() - anchor[name]).square()).sum())
                for name, p in model.named_parameters()
                if p.requires_grad
            )
        )
        assert next(entry[PENALTY_LOG] for entry in log if "loss" in entry) == pytest.approx(
            0.0, abs=1e-4 * max(1, weight)
        )
    assert distances[0] > distances[1] > distances[2]


def test_a_file_of_another_adapter_is_refused(adapter, tiny_llama, tmp_path):
    file, _ = train(adapter, tmp_path / "first", steps=1)
    other = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="belongs to another adapter"):
        Ewc().begin(other, [file], None, None)
    other = get_peft_model(tiny_llama(), LoraConfig(**{**CONFIG, "r": 3}))
    with pytest.raises(ValueError, match="has shape"):
        Ewc().begin(other, [file], None, None)


def test_what_a_task_has_left_is_checked(adapter, tmp_path):
    folder = tmp_path / "first"
    file, _ = train(adapter, folder, steps=1)
    assert Ewc.check_file(folder, {}) == "its sum is right, and it is of this adapter, 8 parameters"
    kept, _ = read_left(file, "sefe_plugin.fisher")
    name = next(name for name in kept if name.startswith("fisher.") and kept[name].any())
    write_left({**kept, name: -kept[name]}, file, "sefe_plugin.fisher")
    with pytest.raises(ValueError, match=r"the Fisher information of .* is negative or not finite"):
        Ewc.check_file(folder, {})
    write_left(kept, file, "sefe_plugin.fisher")
    weights = load_file(folder / "adapter_model.safetensors")
    name = sorted(weights)[0]
    save_file({**weights, name: weights[name] + 1e-3}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"on another adapter than the one beside it; .* differs"):
        Ewc.check_file(folder, {})
    save_file({key: value for key, value in weights.items() if key != name}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"on another adapter than the one beside it$"):
        Ewc.check_file(folder, {})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"deepspeed": {"zero_optimization": {"stage": 3}}}, "does not work under ZeRO-3"),
        ({"streaming": True}, "`streaming` cannot be combined"),
        ({"fsdp": "full_shard"}, "`fsdp` cannot be combined"),
        ({"use_dora": True}, "`use_dora` cannot be combined"),
        ({"ewc_fisher": ["none"]}, "`ewc_fisher`: the file none does not exist"),
    ],
)
def test_what_ewc_cannot_work_with_is_refused(keys, message):
    (error,) = Ewc.errors(keys)
    assert message in error


def test_zero2_is_not_refused():
    assert Ewc.errors({"deepspeed": {"zero_optimization": {"stage": 2}}}) == []

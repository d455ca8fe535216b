import gc
import os
import shutil
import sys
import weakref
from pathlib import Path

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from sefe_plugin import SefeCallback
from sefe_plugin.methods import callback as callback_module
from sefe_plugin.methods import methods
from sefe_plugin.methods.callback import MethodCallback, undo_method_log
from sefe_plugin.methods.reglora import RegLoraModel, find_reglora_model
from sefe_plugin.methods.reglora.files import read_key_elements
from sefe_plugin.methods.reglora.method import PENALTY_LOG


def samples(count=7):
    """Token lists of different lengths, so that no two micro-batches hold the same number of labels."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 12, (count,), generator=generator).tolist()
    rows = [torch.randint(4, 64, (length,), generator=generator).tolist() for length in lengths]
    return [{"input_ids": row, "labels": [-100, *row[1:]]} for row in rows]


def collate(rows):
    width = max(len(row["input_ids"]) for row in rows)
    return {
        "input_ids": torch.tensor([row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in rows]),
        "labels": torch.tensor([row["labels"] + [-100] * (width - len(row["labels"])) for row in rows]),
    }


def arguments(folder, **options):
    defaults = {"learning_rate": 0.0, "max_grad_norm": 0.0, "num_train_epochs": 1, "report_to": "none", "seed": 0}
    return TrainingArguments(
        str(folder),
        per_device_train_batch_size=1,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        **{**defaults, **options},
    )


def token_mean(outputs, labels, num_items_in_batch=None):
    """A loss function of the user's own: the mean over all labels of the optimizer step, times a constant."""
    logits, labels = outputs["logits"][:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return (
        3 * torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum") / num_items_in_batch
    )


#: Ways in which a Trainer turns the losses of micro-batches into the objective of an optimizer step.
PATHS = {
    "text": {},
    "no_loss_kwargs": {},
    "label_smoothing": {"label_smoothing_factor": 0.1},
    "loss_function": {},
    "checkpointing": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
    "reentrant": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    "bf16": {"bf16": True},
    "4bit": {},
    "8bit": {},
}


def quantized(model, bits, folder):
    """A model with its linear layers quantised by bitsandbytes."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    model.save_pretrained(folder)
    if bits == "4bit":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        )
    else:
        quantization = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantization, dtype=torch.float32)
    assert model.model.layers[1].self_attn.q_proj.weight.dtype in (torch.uint8, torch.int8)
    return model


def measure(
    path, accumulation, folder, build_reglora, measure_penalty_weight, files, build_base=lambda: None, **options
):
    """Measure the penalty's weight on one path of the Trainer."""
    options = PATHS[path] | {"gradient_accumulation_steps": accumulation, "logging_strategy": "no"} | options

    def make_trainer(callbacks):
        model = build_reglora(base=build_base(), reglora_key_ratio=0.1, reglora_weight=50.0)
        find_reglora_model(model).load_key_elements(files)
        if path in ("checkpointing", "reentrant"):
            model.enable_input_require_grads()
        trainer = Trainer(
            model,
            arguments(folder, **options),
            train_dataset=samples(),
            data_collator=collate,
            callbacks=callbacks,
            compute_loss_func=token_mean if path == "loss_function" else None,
        )
        if path == "no_loss_kwargs":
            trainer.model_accepts_loss_kwargs = False
        return trainer

    return measure_penalty_weight(make_trainer)


# The difference of two fp32 gradients, each of which may be ten times as large as the penalty's.
ROUNDING = 1e-5


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("path", PATHS)
def test_the_penalty_has_the_weight_lambda(
    path, accumulation, tmp_path, tiny_llama, tiny_reglora, penalty_weight, key_element_files
):
    def build_base():
        return quantized(tiny_llama(), path, tmp_path / "base") if path in ("4bit", "8bit") else tiny_llama()

    steps, error = measure(path, accumulation, tmp_path, tiny_reglora, penalty_weight, key_element_files, build_base)
    assert steps == -(-7 // accumulation)
    assert error < ROUNDING


def test_the_penalty_has_the_weight_lambda_with_two_processes(run_in_two, tmp_path):
    run_in_two(__file__, str(tmp_path))
    for rank in (0, 1):
        lines = Path(tmp_path, f"rank{rank}.txt").read_text().splitlines()
        measured = {name: (int(steps), float(error)) for name, steps, error in (line.split() for line in lines)}
        assert measured.keys() == {"text-1", "text-3", "no_loss_kwargs-3", "all_used-3", "unused-1"}
        for name, (steps, error) in measured.items():
            assert steps == (4 if name.endswith("1") else 2), name  # 7 samples on 2 processes: 4 micro-batches each
            assert error < ROUNDING, name


def measure_unused(folder, build_reglora, build_llama):
    """Measure the penalty's weight on an adapted matrix that no step uses: all of its gradient is the penalty's."""

    def build(seed):
        base = build_llama()
        base.unused = torch.nn.Linear(16, 16)
        return build_reglora(
            seed, base=base, reglora_key_ratio=0.1, reglora_weight=50.0, target_modules=["q_proj", "unused"]
        )

    errors = []

    class Measure(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
            factors = [parameter for name, parameter in model.named_parameters() if "unused.lora_" in name]
            expected = torch.autograd.grad(find_reglora_model(model).penalty(), factors)
            for factor, grad in zip(factors, expected, strict=True):
                found = torch.zeros_like(grad) if factor.grad is None else factor.grad
                errors.append(float((found - grad).norm() / grad.norm()))

    file = Path(folder, f"unused-rank{os.environ['RANK']}.safetensors")
    find_reglora_model(build(seed=100)).save_key_elements(file)
    trainer = Trainer(
        build(seed=0),
        arguments(folder),
        train_dataset=samples(),
        data_collator=collate,
        callbacks=[SefeCallback([file]), Measure()],
    )
    trainer.train()
    return len(errors) // 2, max(errors)


def main(folder):
    """Measure on every process of a group; started by `torchrun`."""
    from conftest import build_llama, build_reglora, measure_penalty_weight

    rank = os.environ["RANK"]
    files = [Path(folder, f"task{i}-rank{rank}.safetensors") for i in range(2)]
    for i, file in enumerate(files):
        find_reglora_model(build_reglora(seed=100 + i, reglora_key_ratio=0.1)).save_key_elements(file)
    results = {
        f"{path}-{accumulation}": measure(path, accumulation, folder, build_reglora, measure_penalty_weight, files)
        for path, accumulation in (("text", 1), ("text", 3), ("no_loss_kwargs", 3))
    }
    results["all_used-3"] = measure(
        "text", 3, folder, build_reglora, measure_penalty_weight, files, ddp_find_unused_parameters=False
    )
    results["unused-1"] = measure_unused(folder, build_reglora, build_llama)
    lines = [f"{name} {steps} {error}\n" for name, (steps, error) in results.items()]
    Path(folder, f"rank{rank}.txt").write_text("".join(lines))
    torch.distributed.destroy_process_group()


@pytest.fixture
def train(tmp_path, tiny_reglora, key_element_files):
    """Train one epoch, with SefeCallback on the given files; returns the Trainer."""

    def run(callback, *callbacks, model=None, **options):
        model = model or tiny_reglora(reglora_key_ratio=0.1, reglora_weight=50.0)
        trainer = Trainer(
            model,
            arguments(tmp_path / "out", **options),
            train_dataset=samples(),
            data_collator=collate,
            callbacks=[*([callback] if callback else []), *callbacks],
        )
        trainer.train()
        return trainer

    return run


class PenaltyOfEveryStep(TrainerCallback):
    def __init__(self):
        self.values = []

    def on_step_begin(self, args, state, control, model, **kwargs):
        self.values.append(find_reglora_model(model).penalty().item())


def test_the_mean_penalty_is_in_the_history_and_in_tensorboard(train, tmp_path, key_element_files, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    steps = PenaltyOfEveryStep()
    trainer = train(
        SefeCallback(key_element_files), steps, learning_rate=0.01, logging_steps=2, report_to="tensorboard"
    )
    values = steps.values
    assert len(values) == 7
    assert len(set(values)) == 7
    expected = [(values[i] + values[i + 1]) / 2 for i in (0, 2, 4)]

    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry[PENALTY_LOG] for entry in logs] == pytest.approx(expected, rel=1e-6)
    assert not any(PENALTY_LOG in entry for entry in trainer.state.log_history if "loss" not in entry)

    events = EventAccumulator(str(tmp_path / "events")).Reload().Scalars(f"train/{PENALTY_LOG}")
    assert [event.value for event in events] == pytest.approx(expected, rel=1e-6)
    assert [event.step for event in events] == [2, 4, 6]


def test_the_log_wrapper_goes_with_the_training(train, key_element_files):
    original = CallbackHandler.on_log
    seen = []

    class Witness(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            seen.append(CallbackHandler.on_log)

    train(SefeCallback(key_element_files), Witness())
    assert original not in seen
    assert CallbackHandler.on_log is original


@pytest.mark.parametrize("when", ["before", "between", "within", "after"])
def test_wrappers_of_others_stay_at_work(train, monkeypatch, when):
    """Someone else wraps `on_log` before two trainings, between them, within the first, or after both."""
    original, seen = CallbackHandler.on_log, []
    monkeypatch.setattr(CallbackHandler, "on_log", original)  # put back at the end

    def wrap():
        inner = CallbackHandler.on_log

        def foreign(handler, args, state, control, logs):
            seen.append("loss" in logs)
            return inner(handler, args, state, control, logs)

        CallbackHandler.on_log = foreign
        return foreign

    class Wrap(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 0:
                histories.append(wrap())

    histories = []
    foreign = wrap() if when == "before" else None
    trainers = [train(SefeCallback(), *[Wrap()] * (when == "within"), logging_steps=7)]
    foreign = wrap() if when == "between" else histories[0] if when == "within" else foreign
    trainers.append(train(SefeCallback(), logging_steps=7))
    foreign = wrap() if when == "after" else foreign
    assert CallbackHandler.on_log is foreign
    for trainer in trainers:
        assert [PENALTY_LOG in entry for entry in trainer.state.log_history] == [True, False]
    assert seen == [True, False] * {"before": 2, "between": 1, "within": 2, "after": 0}[when]
    train(None, logging_steps=7)
    assert seen[-2:] == [True, False]


def test_a_wrapper_that_goes_below_another_leaves_later_trainings_logged(train, monkeypatch):
    original = CallbackHandler.on_log
    monkeypatch.setattr(CallbackHandler, "on_log", original)

    class Reset(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            CallbackHandler.on_log = original

    train(SefeCallback(), Reset(), logging_steps=7)
    assert CallbackHandler.on_log is original
    trainer = train(SefeCallback(), logging_steps=7)
    assert [PENALTY_LOG in entry for entry in trainer.state.log_history] == [True, False]
    assert CallbackHandler.on_log is original


def test_the_log_can_be_left_as_it_is(train, monkeypatch):
    monkeypatch.setenv("SEFE_PLUGIN_DISABLE", "method_log")
    trainer = train(SefeCallback(), logging_steps=7)
    assert [PENALTY_LOG in entry for entry in trainer.state.log_history] == [False, False]


def test_a_trainer_without_the_callback_is_not_touched_while_another_trains(train, key_element_files):
    histories = []

    class Nested(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if not histories:
                histories.append(train(None, logging_steps=1).state.log_history)

    train(SefeCallback(key_element_files), Nested(), logging_steps=1)
    assert not any(PENALTY_LOG in entry for entry in histories[0])


def test_after_a_failed_training_the_next_one_is_logged_once(train, key_element_files):
    original = CallbackHandler.on_log

    class Fail(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(SefeCallback(key_element_files), Fail())
    trainer = train(SefeCallback(key_element_files), logging_steps=7)
    assert [PENALTY_LOG in entry for entry in trainer.state.log_history] == [True, False]
    gc.collect()  # what failed is gone, so the next training that ends leaves nothing behind
    train(SefeCallback(key_element_files))
    assert CallbackHandler.on_log is original


def test_training_with_the_callback_moves_the_weights_less_at_the_key_elements(train, tiny_reglora, key_element_files):
    penalties = {}
    for reglora_weight in (0.0, 2500.0):
        model = tiny_reglora(reglora_key_ratio=0.1, reglora_weight=reglora_weight)
        train(SefeCallback(key_element_files), model=model, learning_rate=0.01, num_train_epochs=5)
        model.peft_config["default"].reglora_weight = 1.0
        penalties[reglora_weight] = find_reglora_model(model).penalty().item()
    assert penalties[2500.0] < 0.2 * penalties[0.0]


def test_key_elements_are_those_of_the_trained_weights(train, tmp_path, key_element_files):
    trainer = train(SefeCallback(key_element_files), learning_rate=0.01)
    find_reglora_model(trainer.model).save_key_elements(tmp_path / "expected")
    saved = read_key_elements(tmp_path / "out" / "key_elements.safetensors")
    expected = read_key_elements(tmp_path / "expected")
    assert saved.adapter_sha256 == expected.adapter_sha256
    assert all(torch.equal(saved.codes[name], codes) for name, codes in expected.codes.items())


def test_random_key_elements_are_drawn_with_the_seed_of_the_training(train, tiny_reglora, tmp_path):
    from sefe_plugin.methods.reglora.codec import decode

    positions = []
    for seed in (1, 1, 2):
        train(SefeCallback(), model=tiny_reglora(reglora_key_ratio=0.1, reglora_selection="random"), seed=seed)
        elements = read_key_elements(tmp_path / "out" / "key_elements.safetensors")
        positions.append({name: decode(codes, 10**6).tolist() for name, codes in elements.codes.items()})
    assert positions[0] == positions[1] != positions[2]


@pytest.mark.parametrize("save_to", [None, "out/../out/task1.safetensors"])
def test_the_file_of_an_earlier_task_is_not_overwritten(train, tmp_path, key_element_files, save_to):
    (tmp_path / "out").mkdir()
    earlier = tmp_path / "out" / ("task1.safetensors" if save_to else "key_elements.safetensors")
    shutil.copy(key_element_files[0], earlier)
    steps = PenaltyOfEveryStep()
    with pytest.raises(ValueError, match=rf"{earlier.name}: holds what an earlier task left.*`output_dir`"):
        train(SefeCallback([earlier], save_to=save_to and tmp_path / save_to), steps)
    assert steps.values == []
    assert earlier.read_bytes() == key_element_files[0].read_bytes()


def test_save_to(train, tmp_path):
    train(SefeCallback(save_to=tmp_path / "deep" / "mine.safetensors"))
    read_key_elements(tmp_path / "deep" / "mine.safetensors")
    assert not (tmp_path / "out" / "key_elements.safetensors").exists()


def test_only_the_main_process_writes(tmp_path, tiny_reglora):
    trainer = Trainer(tiny_reglora(), arguments(tmp_path), train_dataset=samples(), callbacks=[SefeCallback()])
    trainer.create_optimizer()
    call = trainer.callback_handler
    call.on_train_begin(trainer.args, trainer.state, trainer.control)
    trainer.state.is_world_process_zero = False
    call.on_train_end(trainer.args, trainer.state, trainer.control)
    assert list(tmp_path.iterdir()) == []


def test_without_files_the_first_task_trains_unpenalised(train):
    trainer = train(SefeCallback(), logging_steps=7)
    assert trainer.state.log_history[0][PENALTY_LOG] == 0


def test_loaded_key_elements_stay_when_no_files_are_given(train, tiny_reglora, key_element_files):
    model = tiny_reglora(reglora_key_ratio=0.1)
    find_reglora_model(model).load_key_elements(key_element_files)
    trainer = train(SefeCallback(), model=model, logging_steps=7)
    assert trainer.state.log_history[0][PENALTY_LOG] > 0


def test_the_scale_of_fp16_is_taken_into_account(tmp_path, tiny_reglora, key_element_files):
    model = tiny_reglora(reglora_key_ratio=0.1)
    reglora = find_reglora_model(model)
    reglora.load_key_elements(key_element_files)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss = sum((parameter**2).sum() for parameter in parameters)
    expected = torch.autograd.grad(loss + reglora.penalty(), parameters)

    trainer = Trainer(model, arguments(tmp_path), train_dataset=samples(), callbacks=[SefeCallback()])
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    plain = torch.optim.SGD(parameters, lr=1.0)
    trainer.callback_handler.optimizer = AcceleratedOptimizer(plain, scaler=scaler)
    trainer.callback_handler.on_train_begin(trainer.args, trainer.state, trainer.control)
    trainer.callback_handler.on_step_begin(trainer.args, trainer.state, trainer.control)
    scaler.scale(sum((parameter**2).sum() for parameter in parameters)).backward()
    scaler.unscale_(plain)
    torch.testing.assert_close([parameter.grad for parameter in parameters], list(expected), rtol=1e-5, atol=1e-4)
    trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)


@pytest.mark.parametrize(("find_unused", "matrices"), [(None, 6), (True, 6), (False, 3)])
def test_processes_share_the_matrices_only_where_every_gradient_is_averaged(
    tmp_path, tiny_reglora, key_element_files, monkeypatch, find_unused, matrices
):
    model = tiny_reglora(reglora_key_ratio=0.1)
    args = arguments(tmp_path, ddp_find_unused_parameters=find_unused)
    callback = SefeCallback(key_element_files)
    trainer = Trainer(model, args, train_dataset=samples(), callbacks=[callback])
    call, state = trainer.callback_handler, trainer.state
    logs = [{"loss": 0.0}, {"loss": 0.0}]  # of each of two processes
    for process, log in enumerate(logs):
        model.zero_grad()
        with monkeypatch.context() as patch:
            patch.setitem(PartialState._shared_state, "num_processes", 2)
            patch.setitem(PartialState._shared_state, "process_index", process)
            call.on_train_begin(args, state, trainer.control)
            call.on_step_begin(args, state, trainer.control)
            state.log_history = [{}]
            callback.add_logs(log, state)
        assert sum(parameter.grad is not None for parameter in model.parameters()) == 2 * matrices
    expected = find_reglora_model(model).penalty().item()
    assert sum(log[PENALTY_LOG] for log in logs) == pytest.approx(expected, rel=1e-6)
    call.on_train_end(args, state, trainer.control)


def test_a_training_that_starts_anew_drops_what_a_failed_step_left(
    tmp_path, tiny_reglora, key_element_files, monkeypatch
):
    monkeypatch.setattr(callback_module, "_is_deepspeed", lambda: True)
    model = tiny_reglora(reglora_key_ratio=0.1)
    find_reglora_model(model).load_key_elements(key_element_files)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    expected = torch.autograd.grad(find_reglora_model(model).penalty(), parameters)
    trainer = Trainer(model, arguments(tmp_path), train_dataset=samples(), callbacks=[SefeCallback()])
    call, state = trainer.callback_handler, (trainer.args, trainer.state, trainer.control)
    for _ in range(2):  # the first does not reach its backward pass
        call.on_train_begin(*state)
        call.on_step_begin(*state)
    sum(0 * parameter.sum() for parameter in parameters).backward()
    torch.testing.assert_close([parameter.grad for parameter in parameters], list(expected), rtol=1e-6, atol=0)
    call.on_train_end(*state)


def test_penalties_that_nothing_logs_are_not_kept(train, key_element_files, monkeypatch):
    evaluate, made = RegLoraModel.accumulate_penalty_gradients, []

    def noted(*args, **kwargs):
        penalty = evaluate(*args, **kwargs)
        made.append(weakref.ref(penalty))
        return penalty

    monkeypatch.setattr(RegLoraModel, "accumulate_penalty_gradients", noted)
    callback = SefeCallback(key_element_files)
    train(callback, logging_strategy="no")
    assert len(made) == 7
    assert sum(reference() is not None for reference in made) <= 1


def test_a_model_without_reglora_is_refused(train, tiny_llama):
    with pytest.raises(ValueError, match="LlamaForCausalLM has no RegLoRA adapter"):
        train(SefeCallback(), model=tiny_llama())


def test_an_absent_file_is_refused_before_the_first_step(train, tmp_path):
    steps = PenaltyOfEveryStep()
    with pytest.raises(FileNotFoundError, match="task9"):
        train(SefeCallback([tmp_path / "task9.safetensors"]), steps)
    assert steps.values == []


def test_offload_changes_nothing(train, key_element_files):
    histories = [
        train(SefeCallback(key_element_files, offload=offload), learning_rate=0.01, logging_steps=1).state.log_history
        for offload in ("none", "cpu")
    ]
    values = [[(entry["loss"], entry[PENALTY_LOG]) for entry in history[:-1]] for history in histories]
    assert values[0] == values[1]


def test_a_single_path_is_refused():
    with pytest.raises(ValueError, match="list of files"):
        SefeCallback("task1.safetensors")


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.MEGATRON_LM])
def test_sharded_training_is_refused(train, kind, monkeypatch):
    class Shard(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            monkeypatch.setitem(PartialState._shared_state, "distributed_type", kind)

    with pytest.raises(ValueError, match=rf"do not support {kind.value}.*DDP"):
        train(Shard(), SefeCallback())


def test_sharded_training_is_refused_to_methods_that_transform_or_mend_too(tmp_path, tiny_llama, monkeypatch):
    args = arguments(tmp_path)
    assert args.device  # sets up the state that is changed below
    monkeypatch.setitem(PartialState._shared_state, "distributed_type", DistributedType.FSDP)

    def begin(name):
        callback = MethodCallback(methods()[name]())
        callback.on_train_begin(args, None, None, tiny_llama(), train_dataloader=None)
        undo_method_log(callback)

    for name in ("keeplora", "lota", "osf"):
        with pytest.raises(ValueError, match="do not support FSDP"):
            begin(name)
    begin("full")


@pytest.mark.parametrize("optim", ["lomo", "adalomo", "galore_adamw_layerwise", "apollo_adamw_layerwise"])
def test_optimizers_inside_the_backward_pass_are_refused(tmp_path, tiny_reglora, optim):
    trainer = Trainer(
        tiny_reglora(), arguments(tmp_path, optim=optim), train_dataset=samples(), callbacks=[SefeCallback()]
    )
    with pytest.raises(ValueError, match=f"optim={optim}"):
        trainer.callback_handler.on_train_begin(trainer.args, trainer.state, trainer.control)


def test_a_trainer_that_does_not_announce_its_steps_is_refused(tmp_path, tiny_reglora):
    trainer = Trainer(tiny_reglora(), arguments(tmp_path), train_dataset=samples(), callbacks=[SefeCallback()])
    call, state = trainer.callback_handler, (trainer.args, trainer.state, trainer.control)
    trainer.create_optimizer()
    call.optimizer = trainer.optimizer
    call.on_train_begin(*state)
    call.on_step_begin(*state)
    call.on_step_end(*state)
    with pytest.raises(RuntimeError, match="on_step_begin"):
        call.on_step_end(*state)
    call.on_train_end(*state)


if __name__ == "__main__":
    main(sys.argv[1])

"""What a method may do with gradients, in a plain Trainer: transform those of the loss, add to them, log."""

import pytest
import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from transformers import Trainer, TrainerCallback, TrainingArguments

from sefe_plugin.methods.base import Method
from sefe_plugin.methods.callback import MethodCallback
from sefe_plugin.methods.gradients import AddInBackward, set_weight


class Line(torch.nn.Module):
    """y = w x + b with a mean squared error."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(3, 5))
        self.bias = torch.nn.Parameter(torch.randn(3))

    def forward(self, x, y):
        output = x @ self.weight.T + self.bias
        return {"loss": ((output - y) ** 2).mean(), "output": output}


def samples(count=8):
    generator = torch.Generator().manual_seed(1)
    return [{"x": torch.randn(5, generator=generator), "y": torch.randn(3, generator=generator)} for _ in range(count)]


class Seen(TrainerCallback):
    """Keeps the gradients that the optimizer is given, and the weights that it leaves."""

    def __init__(self):
        self.gradients, self.weights = [], []

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})

    def on_step_end(self, args, state, control, model, **kwargs):
        self.weights.append({name: parameter.detach().clone() for name, parameter in model.named_parameters()})


@pytest.fixture
def train(tmp_path):
    """Train with accumulation over two micro-batches, and return the Trainer and what was seen."""

    def run(method=None, model=None, **options):
        seen = Seen()
        args = TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=1,
            gradient_accumulation_steps=2,
            num_train_epochs=1,
            max_grad_norm=0.0,
            optim="sgd",
            seed=0,
            **{"learning_rate": 0.0, "logging_strategy": "no", **options},
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        callbacks = [MethodCallback(method)] if method else []
        # the weights are noted before the method, which may mend them
        trainer = Trainer(model or Line(), args, train_dataset=samples(), callbacks=[seen, *callbacks])
        trainer.train()
        return trainer, seen

    return run


MASK = torch.tensor([[1.0, 0, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 0]])


class Masked(Method):
    """Leaves alone what `MASK` is 0 at."""

    def begin(self, model, earlier, gradients, data):
        gradients.transform(model.weight, lambda grad: MASK * grad)


class MaskedAndPulled(Masked):
    """Adds 2 to every gradient of the weight, too."""

    def on_step_begin(self, gradients):
        gradients.add(self.weight, torch.full((3, 5), 2.0))

    def begin(self, model, earlier, gradients, data):
        super().begin(model, earlier, gradients, data)
        self.weight = model.weight


def test_a_mask_acts_on_the_gradient_of_the_loss(train):
    _, plain = train()
    _, masked = train(Masked())
    assert len(plain.gradients) == len(masked.gradients) == 4
    for expected, found in zip(plain.gradients, masked.gradients, strict=True):
        assert expected["weight"].abs().min() > 0
        torch.testing.assert_close(found["weight"], MASK * expected["weight"], rtol=0, atol=0)
        torch.testing.assert_close(found["bias"], expected["bias"], rtol=0, atol=0)


def test_masked_weights_stay_and_others_move(train):
    before = Line().weight.detach()
    trainer, _ = train(Masked(), learning_rate=0.1)
    moved = trainer.model.weight.detach() != before
    assert torch.equal(moved, MASK.bool())


def test_what_is_added_is_not_transformed(train):
    _, plain = train()
    _, found = train(MaskedAndPulled())
    for expected, grad in zip(plain.gradients, found.gradients, strict=True):
        torch.testing.assert_close(grad["weight"], MASK * expected["weight"] + 2, rtol=0, atol=1e-6)


def test_a_mask_is_gone_after_training(train):
    trainer, _ = train(Masked())
    trainer.model.zero_grad()
    trainer.model.weight.sum().backward()
    assert torch.equal(trainer.model.weight.grad, torch.ones(3, 5))
    _, plain = train()
    _, again = train(model=trainer.model)
    for expected, found in zip(plain.gradients, again.gradients, strict=True):
        torch.testing.assert_close(found["weight"], expected["weight"], rtol=0, atol=0)


def test_a_training_that_starts_anew_drops_the_mask_of_one_that_failed(train, tmp_path):
    class Failing(Masked):
        def on_step_end(self, model):
            raise KeyboardInterrupt

    callback, model = MethodCallback(Failing()), Line()
    args = TrainingArguments(str(tmp_path), report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True)
    with pytest.raises(KeyboardInterrupt):
        Trainer(model, args, train_dataset=samples(), callbacks=[callback]).train()
    callback.method = Method()
    trainer = Trainer(model, args, train_dataset=samples(), callbacks=[callback])
    trainer.train()
    trainer.model.zero_grad()
    trainer.model.weight.sum().backward()
    assert torch.equal(trainer.model.weight.grad, torch.ones(3, 5))


class Logging(Method):
    """Logs the number of the step, and its square in every second one."""

    step = 0

    def on_step_begin(self, gradients):
        self.step += 1
        gradients.log("number", torch.tensor(float(self.step)))
        if self.step % 2 == 0:
            gradients.log("square", torch.tensor(float(self.step**2)))


def test_logged_values_are_means_over_the_steps_since_the_last_log(train):
    trainer, _ = train(Logging(), logging_strategy="steps", logging_steps=2)
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [(entry["number"], entry["square"]) for entry in logs] == [(1.5, 2.0), (3.5, 8.0)]
    assert "number" not in trainer.state.log_history[-1]  # of the whole training


def test_a_method_sees_the_new_weights_of_every_step(train):
    class Watching(Method):
        def __init__(self):
            super().__init__()
            self.weights = []

        def on_step_end(self, model):
            self.weights.append(model.weight.detach().clone())

    method = Watching()
    trainer, seen = train(method, learning_rate=0.1, lr_scheduler_type="constant")
    assert len(method.weights) == 4
    before = Line().weight.detach()
    for weights, gradients in zip(method.weights, seen.gradients, strict=True):
        torch.testing.assert_close(weights, before - 0.1 * gradients["weight"], rtol=1e-6, atol=1e-7)
        before = weights
    assert torch.equal(method.weights[-1], trainer.model.weight.detach())


def test_a_method_may_mend_the_weights_after_a_step(train):
    """As one does that promises something of the weights, which moments and weight decay would break."""

    class Frozen(Method):
        def begin(self, model, earlier, gradients, data):
            self.first = model.weight.detach()[0].clone()

        def on_step_end(self, model):
            with torch.no_grad():
                model.weight[0] = self.first

    trainer, _ = train(Frozen(), learning_rate=0.1, weight_decay=0.1)
    assert torch.equal(trainer.model.weight[0], Line().weight[0])
    assert not torch.equal(trainer.model.weight[1], Line().weight[1])


def test_what_a_method_leaves_is_one_file_in_the_output_folder(train, tmp_path):
    class Leaving(Method):
        file = "left.txt"

        def finish(self, model, file, *, write, seed, data):
            if write:
                file.write_text(f"seed {seed}")

    train(Leaving())
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("left.txt", "seed 0")]


def test_a_method_sees_the_data_of_its_task_before_the_first_step_and_at_the_end(train):
    class Looking(Method):
        def __init__(self):
            super().__init__()
            self.drawn = []

        def begin(self, model, earlier, gradients, data):
            self.drawn.append(data.draw(100, seed=1))

        def finish(self, model, file, *, write, seed, data):
            self.drawn.append(data.draw(100, seed=1))

    method = Looking()
    train(method)
    assert sorted(method.drawn[0]) == list(range(8)) and method.drawn[0] == method.drawn[1]


def test_what_is_added_twice_before_a_backward_pass_adds_up():
    parameter = torch.nn.Parameter(torch.ones(2))
    later = AddInBackward()
    later(parameter, torch.tensor([1.0, 2.0]))
    later(parameter, torch.tensor([10.0, 20.0]))
    (3 * parameter).sum().backward()
    assert parameter.grad.tolist() == [14.0, 25.0]
    assert later.drop() == 0
    (3 * parameter).sum().backward()
    assert parameter.grad.tolist() == [17.0, 28.0]


def test_a_weight_whose_copy_cannot_be_reached_is_not_set(monkeypatch):
    PartialState()
    monkeypatch.setitem(PartialState._shared_state, "distributed_type", DistributedType.DEEPSPEED)
    set_weight(whole := torch.nn.Parameter(torch.zeros(2)), torch.ones(2))
    assert whole.tolist() == [1, 1]  # what the optimizer trains itself
    with pytest.raises(RuntimeError, match="DeepSpeed without ZeRO"):
        set_weight(torch.nn.Parameter(torch.zeros(2).bfloat16()), torch.ones(2))

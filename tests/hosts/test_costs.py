"""What a task's training takes is timed step by step, with the method's work in it."""

from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerCallback

from sefe_plugin.hosts.llamafactory import task
from sefe_plugin.run.costs import read_costs
from sefe_plugin.run.progress import ProgressFile


def test_a_step_is_timed_from_begin_to_end_and_the_training_as_a_whole(tmp_path, monkeypatch):
    now, logged = [100.0], []

    def passes(seconds):
        now[0] += seconds

    class Method(TrainerCallback):
        """Stands in for the method's callback: takes time at the beginning and at the end of each step."""

        def __init__(self, *_, **__):
            pass

        def on_train_begin(self, *_, **__):
            passes(50)

        def on_step_begin(self, *_, **__):
            passes(2)

        def on_step_end(self, *_, **__):
            passes(4)

    def host(callbacks):
        arguments = SimpleNamespace(device=torch.device("cpu"))
        state = SimpleNamespace(global_step=5, max_steps=8, epoch=0.625, num_input_tokens_seen=0)
        given = {"model": torch.nn.Identity(), "train_dataloader": SimpleNamespace(dataset=[0] * 12)}

        def event(name):
            for callback in callbacks:
                getattr(callback, name)(arguments, state, None, **given)

        event("on_train_begin")
        for _ in range(3):
            event("on_step_begin")
            passes(1)
            state.global_step += 1
            event("on_step_end")
            passes(1000)  # evaluation, a checkpoint
        event("on_train_end")

    monkeypatch.setattr(task, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(task, "MethodCallback", Method)
    training_args = SimpleNamespace(process_index=0, output_dir=str(tmp_path))
    finetuning_args = SimpleNamespace(cl_method="lora", stacked_adapter=None, test_sets=None)
    trackers = SimpleNamespace(callbacks=[], hide=lambda: None, log=logged.append)
    arguments = (None, None, training_args, finetuning_args, None)
    task._train(lambda *given: host(given[-1]), arguments, trackers, ProgressFile(None))
    (cost,) = read_costs(tmp_path)
    assert (cost.steps, cost.steps_before) == (3, 5)
    assert cost.step_seconds == pytest.approx(7)
    assert cost.seconds == pytest.approx(50 + 3 * 1007)
    assert [values["step_seconds"] for values in logged] == [pytest.approx(7)]
    assert cost.memory_of == "process" and cost.peak_memory > 50_000_000

"""What trackers are told of a task: steps that go on from the tasks before, its costs and scores, then its end."""

import gc
import os
import sys
import weakref
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import torch
from llamafactory.train.callbacks import ReporterCallback
from short_training import short_arguments
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import Trainer, TrainerCallback
from transformers.integrations import integration_utils

from sefe_plugin.files import read_json, write_json
from sefe_plugin.hosts.llamafactory.trackers import Trackers, cost_logs, score_logs
from sefe_plugin.run.costs import Cost, record_cost
from sefe_plugin.run.folder import MANIFEST_VERSION
from sefe_plugin.run.place import place_of


VARIABLES = ("WANDB_NAME", "MLFLOW_RUN_NAME", "WANDB_RUN_GROUP", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID")

SCORES = {
    "A": {"accuracy": 40.0, "format": 90.0, "count": 10},
    "B": {"accuracy": 60.0, "format": 100.0, "count": 10},
    "general": {"accuracy": 10.0, "format": 20.0, "count": 10, "official": 15.0},
}


def cost(steps: int, before: int = 0) -> Cost:
    return Cost(2.0, steps, before, 0.25, 3_000_000_000, "process")


@pytest.fixture
def task(tmp_path, monkeypatch):
    """The folder of the second of three tasks; the first took 7 steps in all, and 5 before that to find a mask."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what a test sets goes with it
        monkeypatch.delenv(name)
    run = tmp_path / "mine"
    tasks = [{"name": name, "test_dataset": name, "scorer": "yes_no"} for name in "ABC"]
    manifest = {"version": MANIFEST_VERSION, "recipe": {"tasks": tasks}, "complete": []}
    write_json(run / "manifest.json", manifest)
    for folder in ("1_A/calibrate", "2_B", "0_base"):
        (run / folder).mkdir(parents=True)
    record_cost(run / "1_A", cost(4, before=3))
    record_cost(run / "1_A" / "calibrate", cost(5))
    return run / "2_B"


def test_the_place_of_a_folder_in_its_run(task):
    run = task.parent
    for folder, index, steps, name in (
        (run / "0_base", -1, 0, "mine/0_base"),
        (run / "1_A", 0, 5, "mine/1_A"),
        (run / "1_A" / "calibrate", 0, 0, "mine/1_A/calibrate"),
        (task, 1, 12, "mine/2_B"),
        (task / "calibrate", 1, 12, "mine/2_B/calibrate"),
    ):
        place = place_of(folder)
        assert (place.index, place.steps_before(), place.name) == (index, steps, name)
    assert place_of(run / "other") is None
    assert place_of(run.parent / "2_B") is None


@pytest.mark.parametrize("content", ["[1]", '{"version": 3, "name": "a web application"}', "no JSON"])
def test_a_manifest_of_something_else_above_a_folder_is_no_run(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    assert place_of(tmp_path / "1_A") is None
    assert place_of(tmp_path / "1_A" / "calibrate") is None


def test_a_folder_between_a_run_and_something_else_has_its_place(task):
    (task.parent.parent / "manifest.json").write_text("[1]")
    (task / "manifest.json").write_text("[1]")
    assert place_of(task / "calibrate").name == "mine/2_B/calibrate"


def test_what_a_task_was_worth_as_trackers_see_it(task):
    logs = score_logs(SCORES, place_of(task))
    assert logs == {
        "test_A_accuracy": 40.0,
        "test_A_format": 90.0,
        "test_B_accuracy": 60.0,
        "test_B_format": 100.0,
        "test_general_accuracy": 10.0,
        "test_general_format": 20.0,
        "test_general_official": 15.0,
        "test_mfn": 50.0,  # of the tasks so far: not of the retention set
    }
    assert "test_mfn" not in score_logs(SCORES, place_of(task.parent / "0_base"))
    assert "test_mfn" not in score_logs(SCORES, None)
    assert cost_logs(cost(4)) == {"step_seconds": 0.25, "peak_memory_gb": 3.0}


class Recorder(TrainerCallback):
    """A tracker that notes what it is told."""

    told: list

    def on_train_begin(self, args, state, control, **kwargs):
        self.told.append(("begin", args.run_name, args.report_to))

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.told.append((state.global_step, sorted(logs)))

    def on_save(self, args, state, control, **kwargs):
        self.told.append(("save", state.global_step))

    def on_train_end(self, args, state, control, **kwargs):
        self.told.append(("end",))


@pytest.fixture
def recorded(monkeypatch):
    """The events of a tracker that `report_to: recorder` names."""
    events = []
    kind = type("KnownRecorder", (Recorder,), {"told": events})
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "recorder", kind)
    return events


class Tiny(torch.nn.Module):
    """A model of one number."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return {"loss": (self.weight - x).square().mean()}


def short_task(
    folder, *report_to: str, begin: bool = False, callbacks=(), use_swanlab: bool = False, **options
) -> Trainer | None:
    """Train three steps as the process of a task does, then log costs and scores; or begin after the training."""
    args = short_arguments(folder, steps=3)
    args.report_to = list(report_to)
    args.logging_steps, args.save_strategy, args.save_steps = 1, "steps", 3
    for name, value in options.items():
        setattr(args, name, value)
    write_json(folder / "scores.json", SCORES)
    ours, trainer = Trackers(args, SimpleNamespace(use_swanlab=use_swanlab), list(callbacks)), None
    if begin:
        ours.begin(Tiny())
    else:
        ours.hide()
        trainer = Trainer(Tiny(), args, train_dataset=[{"x": torch.ones(1)}] * 8, callbacks=ours.callbacks)
        trainer.train()
        ours.log(cost_logs(cost(3)))
    ours.log_scores()
    ours.close()
    return trainer


STEP = ["epoch", "grad_norm", "learning_rate", "loss"]
TEST = sorted(score_logs(SCORES, None))


def test_steps_go_on_and_trackers_end_after_the_scores(task, recorded):
    trainer = short_task(task, "recorder")
    assert recorded[0] == ("begin", "mine/2_B", ["recorder"])
    assert recorded[1:4] == [(13, STEP), (14, STEP), (15, STEP)]
    assert recorded[4] == ("save", 3)  # the name of a checkpoint is the Trainer's own
    assert recorded[5][0] == 15  # the Trainer's summary
    assert recorded[6:] == [(15, ["peak_memory_gb", "step_seconds"]), (15, sorted([*TEST, "test_mfn"])), ("end",)]
    # of the training itself nothing is moved
    assert trainer.state.global_step == trainer.state.max_steps == 3
    assert [log["step"] for log in trainer.state.log_history] == [1, 2, 3, 3]
    state = read_json(task / "checkpoint-3" / "trainer_state.json")
    assert (state["global_step"], state["max_steps"]) == (3, 3)


def test_a_process_that_only_scores_opens_the_trackers_at_the_end_of_the_training(task, recorded):
    record_cost(task, cost(2, before=1))
    short_task(task, "recorder", begin=True)
    assert recorded == [("begin", "mine/2_B", ["recorder"]), (15, sorted([*TEST, "test_mfn"])), ("end",)]


@pytest.mark.parametrize("tracker", ["wandb", "trackio", "swanlab"])
def test_a_tracker_is_open_before_the_host_tells_it_of_its_arguments(task, recorded, monkeypatch, tracker):
    monkeypatch.setenv("WANDB_PROJECT", "any")  # which the host's callback sets
    names = [tracker, *(["swanlab.integration", "swanlab.integration.transformers"] if tracker == "swanlab" else ())]
    modules = {name: ModuleType(name) for name in names}
    for name, module in modules.items():
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    modules[tracker].config = SimpleNamespace(update=lambda told: recorded.append(("arguments", sorted(told))))
    recorder = integration_utils.INTEGRATION_TO_CALLBACK["recorder"]
    is_swanlab = tracker == "swanlab"
    if is_swanlab:
        modules["swanlab.integration.transformers"].SwanLabCallback = recorder
    else:
        monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, tracker, recorder)
    reporter = ReporterCallback(*[SimpleNamespace(to_dict=dict, use_swanlab=is_swanlab)] * 4)
    # as the host orders them: a SwanLab of its own, then the callback that tells
    callbacks = [*([recorder()] if is_swanlab else ()), reporter]
    short_task(task, *(() if is_swanlab else (tracker,)), callbacks=callbacks, use_swanlab=is_swanlab)
    assert recorded[0][0] == "begin"
    assert recorded[1] == ("arguments", ["data_args", "finetuning_args", "generating_args", "model_args"])
    assert sum(event[0] in ("begin", "arguments") for event in recorded) == 2


def test_the_optimizer_does_not_wait_for_the_end(task, recorded, monkeypatch):
    ended = []
    tracker = integration_utils.INTEGRATION_TO_CALLBACK["recorder"]
    monkeypatch.setattr(tracker, "on_train_end", lambda *event, **kwargs: ended.append(kwargs))
    args, model = short_arguments(task, steps=1), Tiny()
    args.report_to = ["recorder"]
    ours, optimizer = Trackers(args, SimpleNamespace(use_swanlab=False), []), torch.optim.SGD(model.parameters())
    optimizer_left = weakref.ref(optimizer)
    ours.on_train_end(None, None, None, model=model, processing_class="its tokenizer", optimizer=optimizer)
    del optimizer
    gc.collect()
    assert optimizer_left() is None
    ours.close()
    assert ended == [{"model": model, "processing_class": "its tokenizer", "optimizer": None}]


class Offline(TrainerCallback):
    """A tracker that loses its network with the end of the training."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in logs and "train_loss" not in logs:
            raise ConnectionError("no route to the server")

    def on_train_end(self, *event, **kwargs):
        raise ConnectionError("still none")


@pytest.mark.parametrize("begin", [False, True])
def test_a_tracker_that_fails_after_the_training_is_a_warning(task, recorded, monkeypatch, caplog, begin):
    tracker = Offline()
    if begin:
        tracker.on_train_begin = tracker.on_train_end
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "offline", lambda: tracker)
    short_task(task, "offline", "recorder", begin=begin)  # the second is told all the same
    assert recorded[-2:] == [(12 if begin else 15, sorted([*TEST, "test_mfn"])), ("end",)]
    first = "still none" if begin else "no route to the server"
    said = [record.getMessage() for record in caplog.records if record.name == Trackers.__module__]
    assert said == [
        f"Offline has failed (ConnectionError: {error}); the task goes on without it."
        for error in (first, "no route to the server", "still none")
    ]


@pytest.fixture
def run_trained_task(task, recorded, monkeypatch):
    """Runs a task that is trained already, and whose scoring may fail."""
    from sefe_plugin.hosts.llamafactory import scoring
    from sefe_plugin.hosts.llamafactory import task as module

    monkeypatch.setattr(module, "load_tokenizer", lambda model_args: {"tokenizer": None})
    monkeypatch.setattr(module, "load_model", lambda *arguments: Tiny())
    monkeypatch.setattr(module, "_save_merged", lambda *arguments: recorded.append(("merged",)))

    def run(error: Exception | None = None) -> None:
        def score(*arguments):
            if error:
                raise error
            write_json(task / "scores.json", SCORES)

        monkeypatch.setattr(scoring, "score_test_sets", score)
        training_args = short_arguments(task, steps=1)
        training_args.report_to = ["recorder"]
        model_args = SimpleNamespace(adapter_name_or_path=["adapter"])
        finetuning_args = SimpleNamespace(
            use_swanlab=False,
            test_sets=[{"name": "A"}],
            scoring_backend="generate",
            finetuning_type="lora",
            merge_adapter=True,
        )
        module.run_task(None, (model_args, None, training_args, finetuning_args, None), None)

    return run


def test_scores_are_logged_when_the_task_is_whole(run_trained_task, recorded):
    run_trained_task()
    assert [event[0] for event in recorded] == ["begin", "merged", 12, "end"]


def test_a_task_whose_scoring_fails_is_not_ended_as_if_all_were_well(run_trained_task, recorded):
    with pytest.raises(MemoryError):
        run_trained_task(MemoryError())
    assert [event[0] for event in recorded] == ["begin"]


def test_runs_are_named_and_gathered_unless_the_user_has(task, recorded, monkeypatch):
    short_task(task, "recorder")
    assert os.environ["WANDB_RUN_GROUP"] == os.environ["MLFLOW_EXPERIMENT_NAME"] == "mine"
    short_task(task, "recorder", run_name="own")
    assert [event[1] for event in recorded if event[0] == "begin"] == ["mine/2_B", "own"]
    recorded.clear()
    monkeypatch.setenv("WANDB_NAME", "mine alone")
    monkeypatch.setenv("WANDB_RUN_GROUP", "all of today")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    short_task(task, "recorder")
    assert recorded[0][1] is None
    assert os.environ["WANDB_RUN_GROUP"] == "all of today"
    assert "MLFLOW_EXPERIMENT_NAME" not in os.environ


def test_a_run_without_trackers_gets_none(task, monkeypatch):
    monkeypatch.setattr("sefe_plugin.hosts.llamafactory.trackers.place_of", None)  # is not asked
    args = short_arguments(task, steps=1)
    ours = Trackers(args, SimpleNamespace(use_swanlab=False), ["another"])
    assert ours.callbacks == ["another"]
    assert args.run_name is None
    assert "WANDB_RUN_GROUP" not in os.environ
    with pytest.raises(AttributeError):
        ours.anything  # noqa: B018


def test_tensorboard_shows_it(task):
    short_task(task, "tensorboard")
    events = EventAccumulator(str(next((task / "runs").iterdir())))
    events.Reload()
    shown = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert [step for step, _ in shown["train/loss"]] == [13, 14, 15]
    assert shown["test/A_accuracy"] == [(15, 40.0)]
    assert shown["test/mfn"] == [(15, 50.0)]
    assert shown["train/step_seconds"] == [(15, 0.25)]


def test_mlflow_shows_it(task, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (task / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # needs no server and no database
    short_task(task, "mlflow")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert (run.info.run_name, run.info.status) == ("mine/2_B", "FINISHED")
    assert [value.step for value in client.get_metric_history(run.info.run_id, "loss")] == [13, 14, 15]
    (mean,) = client.get_metric_history(run.info.run_id, "test_mfn")
    assert (mean.step, mean.value) == (15, 50.0)


def test_wandb_shows_it(task, monkeypatch):
    wandb = pytest.importorskip("wandb")
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(task), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    short_task(task, "wandb")
    run = wandb.run
    try:
        assert (run.name, run.group) == ("mine/2_B", "mine")
        assert run.summary["train/global_step"] == 15
        assert run.summary["test/mfn"] == 50.0
    finally:
        run.finish()

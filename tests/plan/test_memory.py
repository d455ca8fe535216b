"""The sums of a plan, beside sums by hand."""

import pytest

from sefe_plugin.plan.disk import disk_space
from sefe_plugin.plan.memory import Setting, gpu_memory, read_setting, state_bytes
from sefe_plugin.plan.sizes import Architecture, TaskSize


MODEL = Architecture(
    model_type="llama",
    parameters=1_000_000,
    frozen_parameters=1_000_000,
    weight_bytes=2_000_000,
    quantized_bytes=0,
    saved_bytes=2_000_000,
    trainable_parameters=10_000,
    trainable_bytes=40_000,
    lora_bytes=32_000,
    matrices=((1000, 500), (500, 1000)),
    layers=10,
    hidden_size=8,
    vocabulary=100,
    layer_parameters=5_000,
    layer_bytes_per_token=300,
    layer_width=20,
    weight_type="bfloat16",
    image_tokens=0,
)
KEYS = {"bf16": True, "per_device_train_batch_size": 2}


def memory(keys=(), setting=None, earlier_tasks=0, model=MODEL, **options):
    keys = {**KEYS, **dict(keys)}
    return gpu_memory(model, keys, setting or Setting(1), earlier_tasks=earlier_tasks, tokens=50, **options)


def test_one_gpu():
    parts = memory()
    assert parts["weights"] == 2_000_000
    assert parts["trainable parameters"] == parts["gradients"] == 40_000
    assert parts["optimizer states"] == 80_000  # two numbers in fp32
    assert parts["buffers"] == 20_000  # autocast's copies of the adapters
    assert parts["activations"] == 10 * 2 * 8 * 100  # layers x 16 bit x hidden size x tokens in a batch
    assert parts["layer or logits"] == 100 * 100 * 10  # more than one layer's (300 + 8 x 20) x 100
    assert parts["total"] == sum(size for name, size in parts.items() if name != "total")


def test_without_checkpointing_every_layer_stays():
    parts = memory({"disable_gradient_checkpointing": True})
    assert parts["activations"] == 10 * 300 * 100
    assert parts["layer or logits"] == 100 * 100 * 10


def test_weights_in_another_precision_are_turned_into_autocasts():
    other = Architecture(**{**vars(MODEL), "weight_type": "float16", "vocabulary": 1})
    assert memory(model=other)["layer or logits"] == (300 + 8 * 20) * 100 + 2 * 5_000


def test_ddp_adds_buckets_of_gradients():
    assert memory(setting=Setting(4))["buffers"] == 20_000 + 40_000


@pytest.mark.parametrize(
    ("stage", "weights", "trainable", "gradients", "states"),
    [
        (1, 2_000_000, 20_000, 20_000, 30_000),
        (2, 2_000_000, 20_000, 5_000, 30_000),
        (3, 500_000, 5_000, 5_000, 30_000),
    ],
)
def test_zero_shares_out(stage, weights, trainable, gradients, states):
    parts = memory(setting=Setting(4, zero=stage))
    assert parts["weights"] == weights
    assert parts["trainable parameters"] == trainable  # 16 bit
    assert parts["gradients"] == gradients
    assert parts["optimizer states"] == states  # (4 + 8) x 10,000 / 4: an fp32 copy and AdamW's two numbers


def test_zero_configuration_is_read():
    config = {
        "zero_optimization": {
            "stage": 3,
            "stage3_max_live_parameters": 1000,
            "offload_optimizer": {"device": "cpu"},
            "offload_param": {"device": "none"},
        }
    }
    setting = read_setting(config, 8)
    assert setting == Setting(8, 3, frozenset({"optimizer"}), 1000)
    parts = memory(setting=setting)
    assert parts["optimizer states"] == 0
    assert parts["buffers"] == 2 * 1000
    assert read_setting(None, 2) == Setting(2)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [("adamw_torch", 8), ("adamw_8bit", 2 + 1 / 32), ("paged_adamw_8bit", 0), ("sgd", 0), ("unheard_of", 8)],
)
def test_optimizer_states(optimizer, expected):
    assert state_bytes({"optim": optimizer}) == expected


def test_key_elements_and_stacked_adapters_grow_with_the_tasks():
    keys = {"cl_method": "reglora", "reglora_key_ratio": 0.02}
    one, seven = (memory(keys, earlier_tasks=count, stacked_adapters=count) for count in (1, 7))
    # 2 x 10,000 key elements, a byte each, and one for every gap of 248: 0.98^248 = 0.67 % of them
    assert one["key elements"] == pytest.approx(20_133, abs=2)
    assert seven["key elements"] == pytest.approx(7 * one["key elements"], abs=7)
    # held in the precision of the computation, bf16
    assert (one["stacked adapters"], seven["stacked adapters"]) == (16_000, 7 * 16_000)
    assert memory({"bf16": False}, earlier_tasks=7, stacked_adapters=7)["stacked adapters"] == 7 * 32_000
    assert memory({**keys, "reglora_offload": "cpu"}, earlier_tasks=7)["key elements"] == 0
    assert memory(earlier_tasks=7)["stacked adapters"] == 0


def test_disk_of_a_stack_grows_and_merges_nothing():
    tasks = [TaskSize(name, 100, 50, 60, 10, 1000, "measured") for name in "abc"]
    merged = disk_space(MODEL, {"save_strategy": "no"}, tasks, [10, 10, None])
    stacked = disk_space(MODEL, {"save_strategy": "no", "carry": "stack"}, tasks, [10, 10, None])
    assert merged["merged models"] == 6_000_000
    assert stacked["stacked adapters"] == 6 * 32_000  # ranks r, 2 r and 3 r
    assert "stacked adapters" not in merged
    assert "merged models" not in stacked
    # the model of a task goes when the next one is complete
    for count, models in ((1, 1), (2, 2), (3, 2)):
        last = disk_space(MODEL, {"save_strategy": "no", "keep_merged": "last"}, tasks[:count], [10] * count)
        assert last["merged models, two"] == models * 2_000_000
    assert merged["adapters"] == stacked["adapters"] == 120_000
    # the first task's test set is answered three times, the last one's once
    assert merged["predictions"] == 6 * (1000 + 10 * 32)


def test_disk_of_samples_that_later_tasks_may_draw():
    tasks = [
        TaskSize(name, count, 50, 60, 10, 1000, "measured") for name, count in (("a", 100), ("b", 30), ("c", None))
    ]
    keys = {"save_strategy": "no", "replay_ratio": 0.1}
    assert disk_space(MODEL, keys, tasks, [10, 10, None])["kept samples"] == 130 * 250
    assert disk_space(MODEL, keys | {"replay_size": 50}, tasks, [10, 10, None])["kept samples"] == 80 * 250
    assert "kept samples" not in disk_space(MODEL, {"save_strategy": "no"}, tasks, [10, 10, None])


@pytest.mark.parametrize(
    ("deepspeed", "model"),
    [
        (None, 2_000_000 - 2 * 600_000 + 4 * 600_000),  # 600,000 in fp32, the rest in its own bf16
        ({"zero_optimization": {"stage": 2}}, 2 * 1_000_000),  # DeepSpeed computes in one precision
    ],
)
def test_disk_of_full_fine_tuning_is_a_model_for_every_task(deepspeed, model):
    trained = {"trainable_parameters": 600_000, "trainable_bytes": 2_400_000, "lora_bytes": 0, "matrices": ()}
    architecture = Architecture(**{**vars(MODEL), "frozen_parameters": 400_000, **trained})
    tasks = [TaskSize(name, 100, 50, 60, 10, 1000, "measured") for name in "abc"]
    keys = {"save_strategy": "no", "cl_method": "full", "bf16": True, "deepspeed": deepspeed}
    parts = disk_space(architecture, keys, tasks, [10, 10, 10])
    assert parts["models"] == 3 * model
    assert not {"adapters", "merged models", "stacked adapters", "key elements"} & parts.keys()


def test_what_methods_hold_and_leave():
    columns = sum(columns for _, columns in MODEL.matrices)
    held = memory({"cl_method": "olora", "lora_rank": 4}, earlier_tasks=3)
    assert held["A of earlier tasks"] == 2 * 3 * 4 * columns  # 16 bit
    first, later = (memory({"cl_method": "ewc"}, earlier_tasks=count)["Fisher information"] for count in (0, 5))
    assert (first, later) == (0, 8 * MODEL.trainable_parameters)  # two tensors in fp32, however many tasks
    assert memory({"cl_method": "lota"}, earlier_tasks=5)["mask"] == MODEL.trainable_parameters / 8
    tasks = [TaskSize(name, 100, 50, 60, 10, 1000, "measured") for name in "abc"]
    left = disk_space(MODEL, {"cl_method": "ewc"}, tasks, [10] * 3)["Fisher information"]
    assert left == 3 * 8 * MODEL.trainable_parameters


def test_a_task_that_is_trained_twice_leaves_two_models():
    tasks = [TaskSize(name, 100, 50, 60, 10, 1000, "measured") for name in "abc"]
    keys = {"output_dir": "run", "save_strategy": "epoch", "num_train_epochs": 1.0}
    once, twice = (
        disk_space(MODEL, {**keys, "cl_method": method}, tasks, steps)
        for method, steps in (("full", [10] * 3), ("lota", [10] * 6))
    )
    assert (twice["models"], twice["checkpoints"]) == (2 * once["models"], 2 * once["checkpoints"])
    all_kept = disk_space(MODEL, {**keys, "cl_method": "full", "keep_checkpoints": True}, tasks, [10, 20, None])
    assert all_kept["checkpoints"] == 2 * once["checkpoints"]
    assert twice["masks"] == round(3 * MODEL.trainable_parameters / 4)

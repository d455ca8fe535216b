import json
import sys
from pathlib import Path

import psutil
import pytest
import torch

from sefe_plugin.run.costs import Cost, record_cost


FOLDER = Path(__file__).parent


@pytest.fixture
def bench(monkeypatch):
    """The modules of the benchmarks."""
    monkeypatch.syspath_prepend(FOLDER)
    import bench_reglora
    import bench_whole_model

    return bench_reglora, bench_whole_model


def test_the_file_of_figures_has_every_goal(bench, monkeypatch, tmp_path):
    module, _ = bench
    monkeypatch.setattr(module, "LAYER", {(200, 300): 2, (300, 200): 1})
    monkeypatch.setattr(module, "RANK", 4)
    monkeypatch.setattr(sys, "argv", ["bench_reglora.py", "--json", str(tmp_path / "figures.json")])
    module.main()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert 1 < figures["bytes_per_element_resident"] < 1.1
    for goal in (
        "bytes_per_element_disk",
        "time_over_dense_reference",
        "time_over_gemm_floor",
        "extra_peak_mb",
        "find_over_full_topk",
    ):
        assert figures[goal] >= 0
    assert figures["matrices"] == 3
    assert list(figures["by_number_of_tasks"]) == ["1", "3", "7", "15"]


def test_the_whole_model_in_small(bench, tmp_path):
    """The steps of the GPU benchmark, on a CPU with a tiny architecture."""
    pytest.importorskip("bitsandbytes")
    from sefe_plugin.methods.reglora import find_reglora_model

    _, module = bench
    config = module.llava_config()
    text = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    for part, options in (
        (config.text_config, {**text, "num_key_value_heads": 4, "head_dim": 16}),
        (config.vision_config, {**text, "num_hidden_layers": 3, "projection_dim": 64}),
    ):
        for name, value in options.items():
            setattr(part, name, value)
    model = module.build_model(config, rank=4)
    assert len(find_reglora_model(model)._shapes()) == 2 * 7
    files = module.write_random_key_elements(model, tmp_path, tasks=2)
    find_reglora_model(model).load_key_elements(files)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    value = find_reglora_model(model).penalty()
    assert module.step_seconds(model, optimizer, True, steps=1) > 0
    assert find_reglora_model(model).penalty() != value


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("rank", "memory"), [(128, 22.0), (32, 14.0)])
def test_the_whole_model_fits(bench, monkeypatch, tmp_path, rank, memory):
    _, module = bench
    command = ["bench", "--rank", str(rank), "--memory-gb", str(memory), "--json", str(tmp_path / "figures.json")]
    monkeypatch.setattr(sys, "argv", command)
    module.main()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["peak_gb"] <= memory
    assert figures["key_elements_resident_gb"] <= 1.1
    assert figures["slower_percent"] <= 5


def test_the_steps_of_fwd_prompt_are_measured(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import bench_fwd_prompt

    figures = bench_fwd_prompt.measure(steps=1)
    assert {key for key in figures if key.endswith("_seconds")} == {
        "lora_seconds",
        "pool_seconds",
        "fwd_prompt_seconds",
    }
    assert all(value > 0 for value in figures.values())


def test_the_model_and_the_recipe_of_true_size_in_small(monkeypatch, tmp_path):
    """The files that the GPU benchmark of a recipe makes, with a tiny architecture and pictures of 576 tokens."""
    pytest.importorskip("bitsandbytes")
    monkeypatch.syspath_prepend(FOLDER)
    import bench_real_size
    import yaml
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    config = bench_real_size.llava_config()
    for name, value in {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}.items():
        setattr(config.text_config, name, value)
        setattr(config.vision_config, name, value)
    config.text_config.num_attention_heads = config.text_config.num_key_value_heads = 4
    config.text_config.head_dim = config.vision_config.num_attention_heads = 16
    monkeypatch.setattr(bench_real_size, "llava_config", lambda shrink: config)
    bench_real_size.write_base(tmp_path / "base")
    recipe = bench_real_size.own_recipe(FOLDER.parents[1] / "recipes" / "coin_sefe_qlora.yaml", tmp_path)
    keys = yaml.safe_load(recipe.read_text())
    assert [task["name"] for task in keys["tasks"]] == ["TextVQA", "ImageNet"]
    assert "benchmark" not in keys
    records = json.loads((tmp_path / "data" / "TextVQA" / "train.json").read_text())
    assert len(records) == bench_real_size.TRAIN_SAMPLES
    processor = AutoProcessor.from_pretrained(tmp_path / "base")
    picture = Image.open(tmp_path / "data" / records[0]["image"])
    inputs = processor(images=picture, text="<image>", return_tensors="pt")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "base", dtype=torch.float32)
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 576
    assert model(**inputs).logits.isfinite().all()


@pytest.fixture
def sequence_bench(monkeypatch):
    """The benchmark of a sequence."""
    monkeypatch.syspath_prepend(FOLDER)
    import bench_sequence

    return bench_sequence


FIGURES = {
    "ledger": {
        "tasks": [{"task": "A", "phases": [{"phase": "training", "seconds": 30.0}], "seconds": 30.0, "besides": 0.0}],
        "phases": [{"phase": "training", "seconds": 30.0}],
        "seconds": 30.0,
        "besides": 0.0,
    },
    "bare": {"A": {"seconds": 40.0, "training": 20.0}, "B": {"seconds": 10.0, "training": 5.0}},
}


def test_a_sequence_is_put_beside_bare_trainings(sequence_bench):
    found = sequence_bench.compared(FIGURES["ledger"], 120.0, FIGURES["bare"])
    assert found == {
        "sequence": {"seconds": 120.0, "training": 30.0, "besides": 75.0},
        "bare": {"seconds": 50.0, "training": 25.0, "besides": 50.0},
        "sequence_over_bare": 2.4,
        "training_over_bare": 1.2,
    }
    said = sequence_bench.as_text({**FIGURES, "compared": found})
    assert "| sequence |      120.0 |        30.0 |       75.0 |" in said
    assert "| B         |       10.0 |         5.0 |" in said


def test_a_bare_task_has_the_keys_of_the_host_alone(sequence_bench, tmp_path):
    recipe = FOLDER.parents[1] / "recipes" / "minicoin_sefe.yaml"
    keys = sequence_bench.sequence_keys(recipe, 2, ["num_train_epochs=1"], tmp_path)
    assert [task["name"] for task in keys["tasks"]] == ["ScienceQA", "TextVQA"]
    assert "benchmark" not in keys
    assert (tmp_path / "data" / "dataset_info.json").is_file()
    bare = sequence_bench.bare_keys({**keys, "dataset": "x", "test_sets": [], "merge_adapter": True}, tmp_path / "b")
    assert bare["output_dir"] == str(tmp_path / "b")
    assert (bare["num_train_epochs"], bare["dataset"], bare["lora_rank"]) == (1, "x", 16)
    assert not {"cl_method", "asd_ratio", "reglora_weight", "test_sets", "merge_adapter", "tasks"} & bare.keys()


@pytest.mark.slow
def test_a_short_sequence_is_measured(sequence_bench, monkeypatch, tmp_path, capsys):
    recipe = FOLDER.parents[1] / "recipes" / "minicoin_sefe.yaml"
    options = ["--tasks", "1", "--recipe", str(recipe), "--json", str(tmp_path / "figures.json"), "max_steps=4"]
    monkeypatch.setattr(sys, "argv", ["bench_sequence.py", *options])
    sequence_bench.main()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [task["task"] for task in figures["ledger"]["tasks"]] == list(figures["bare"]) == ["ScienceQA"]
    assert 0 < figures["bare"]["ScienceQA"]["training"] < figures["bare"]["ScienceQA"]["seconds"]
    assert figures["ledger"]["seconds"] < figures["compared"]["sequence"]["seconds"]
    assert "| bare task" in capsys.readouterr().out


def test_the_table_and_the_picture_of_growth(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    import bench_growth

    assert bench_growth.windows(1) == [(1, 1)]
    assert bench_growth.windows(5) == [(1, 1), (2, 2), (3, 4), (5, 5)]
    assert bench_growth.windows(16)[-1] == (9, 16)
    tasks = bench_growth.many_tasks({"tasks": [{"name": "A", "dataset": "a"}, {"name": "B", "dataset": "b"}]}, 3)
    assert [(task["name"], task["dataset"]) for task in tasks] == [("A_1", "a"), ("B_2", "b"), ("A_3", "a")]
    figures = {"tasks": 4, **{name: [1e6, 2e6, 3e6, 5e6] for name in bench_growth.FIGURES}}
    lines = bench_growth.as_text(figures).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["1", "2", "3-4"]
    assert lines[-1].endswith("4.00 |")  # the median of 3 and 5 MB
    bench_growth.draw(figures, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_ways_of_waiting_are_measured_in_turn(monkeypatch, tmp_path):
    """Each way has its environment, alone and beside a busy program, and the weights of all are compared."""
    monkeypatch.syspath_prepend(FOLDER)
    import bench_threads

    seen = []

    def timed(keys, file, environment):
        seen.append((environment["OMP_NUM_THREADS"], environment.get("GOMP_SPINCOUNT")))
        place = Path(keys["output_dir"]) / "1_ScienceQA"
        place.mkdir(parents=True)
        (place / "adapter_model.safetensors").write_text(environment["OMP_NUM_THREADS"])
        record_cost(place, Cost(7.0, 2, 0, len(seen) / 10, 1000, "process"))
        return 1.0

    monkeypatch.setattr(bench_threads, "timed", timed)
    monkeypatch.setattr(bench_threads.os, "cpu_count", lambda: 3)
    recipe = FOLDER.parents[1] / "recipes" / "minicoin_lora.yaml"
    figures = bench_threads.measure(recipe, 6, 2, False, [], tmp_path)
    spins = [("3", "0"), ("3", "1000"), ("3", "10000"), ("3", "50000"), ("1", None)]
    assert seen == spins * 4
    assert figures["seconds"]["asleep at once"] == {"alone": [0.1, 0.6], "beside": [1.1, 1.6]}
    assert figures["different_weights"] == {"several threads": 1, "one thread": 1}
    assert "| one thread              | 0.500 1.000 | 1.500 2.000 |" in bench_threads.as_text(figures)


def test_a_busy_program_ends_with_its_context(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import bench_threads

    before = {process.pid for process in psutil.Process().children()}
    with bench_threads.busy(True):
        (program,) = [process for process in psutil.Process().children() if process.pid not in before]
    assert not program.is_running()


def test_the_data_of_many_records(monkeypatch, tmp_path):
    """Each record is one of its own, and those that it is written for read them."""
    monkeypatch.syspath_prepend(FOLDER)
    import bench_data

    from sefe_plugin.data.test_sets import read_test_set
    from sefe_plugin.evaluation.scorers import scorer_of

    bench_data.write_data(tmp_path / "data", 9)
    lines = (tmp_path / "data" / "train.jsonl").read_text().splitlines()
    assert len(set(lines)) == len(lines) == 9
    assert len(read_test_set("few", str(tmp_path / "data"), scorer_of("short_answer"))) == 2
    keys = bench_data.run_keys(FOLDER.parents[1] / "recipes/minicoin_sefe.yaml", [], tmp_path / "data", tmp_path)
    assert "benchmark" not in keys
    assert keys["max_steps"] == 1
    run = dict.fromkeys(bench_data.HEADS, 1.5)
    assert "| 6000" in bench_data.as_text({"records": {"6000": {"first": run, "again": run}}})

"""`sefe prepare coin` on small files in the published layouts."""

import argparse
import json
import re
from dataclasses import replace

import pytest
from datasets import load_dataset
from PIL import Image

from sefe_plugin.benchmarks import load_benchmark
from sefe_plugin.benchmarks.coin.tasks import COIN as TABLE
from sefe_plugin.benchmarks.coin.tasks import TASKS
from sefe_plugin.benchmarks.published.commands import add_commands
from sefe_plugin.benchmarks.published.convert import FAULTS_FILE, Choice, prepare
from sefe_plugin.benchmarks.published.find import find_files
from sefe_plugin.benchmarks.published.layout import gold_field
from sefe_plugin.benchmarks.score_file import score_file
from sefe_plugin.hosts.llamafactory.keys import host_keys
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.recipe.load import load_recipe


NAMES = [task.name for task in TASKS]
TRAIN, TEST = 20, 12
COIN = load_benchmark("coin")


def prepare_coin(source, out, images=None, variant=None, say=lambda line: None, **choice):
    return prepare(TABLE, source, out, images=images, variant=variant, choice=Choice(**choice), say=say)


def find_annotations(source, variant):
    found, _ = find_files(TABLE, source, None, variant, source.parent / "out", lambda line: None)
    return found


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")


def published_training(task, size=TRAIN):
    records = []
    for i in range(size):
        talk = [{"from": "human", "value": f"Question {i} of {task}?"}, {"from": "gpt", "value": f"Ä{i}"}]
        # ScienceQA begins with questions without an image
        image = {} if task == "ScienceQA" and i < 5 else {"image": f"./{task}/images/{i % 4}.jpg"}
        records.append({"id": i if task == "GQA" else f"{task}-{i}", **image, "conversations": talk})
    return records


def published_tests(task, size=TEST):
    answer = {"answer_bbox": "[0.10, 0.20, 0.30, 0.40]", "size": [40, 30]} if task == "Grounding" else {"answer": "A"}
    text = "Which?\nA. this\nB. that\nAnswer with the option's letter from the given choices directly."
    return [{"question_id": i, "image": f"./{task}/images/{i % 4}.jpg", "text": text, **answer} for i in range(size)]


@pytest.fixture
def source(tmp_path):
    """CoIN as the official SEFE repository lays it out, every image a JPEG of 40 x 30."""
    folder = tmp_path / "CoIN"
    for task in NAMES:
        write(folder / "annotations" / task / "train.json", published_training(task))
        write(folder / "annotations" / task / "test.json", published_tests(task))
        (folder / task / "images").mkdir(parents=True)
        for i in range(4):
            Image.effect_noise((40, 30), 80).convert("RGB").save(folder / task / "images" / f"{i}.jpg")
    answers = [{"question_id": i, "answers": ["yes"] * 10} for i in range(TEST)]
    write(folder / "TextVQA" / "TextVQA_0.5.1_val.json", {"data": answers})
    return folder


def read_rows(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_all_records_become_rows(source, tmp_path):
    out = tmp_path / "out"
    lines = []
    manifest = prepare_coin(source, out, say=lines.append)
    assert lines[0] == f"ScienceQA test: {TEST} records"
    assert lines[1].startswith(f"ScienceQA train: {TRAIN} records")
    assert json.loads((out / "manifest.json").read_text()) == manifest
    for task in NAMES:
        rows = read_rows(out / task / "train.jsonl")
        assert sorted(row["id"] for row in rows) == sorted(str(record["id"]) for record in published_training(task))
        assert all(set(row) == {"id", "image", "conversations"} for row in rows)
        assert all((row["image"] is None) != ("<image>" in row["conversations"][0]["value"]) for row in rows)
        assert [row["question_id"] for row in read_rows(out / task / "test.jsonl")] == list(range(TEST))
        assert manifest["tasks"][task]["train"]["written"] == TRAIN
    info = json.loads((out / "dataset_info.json").read_text())
    assert [(out / entry["file_name"]).is_file() for entry in info.values()] == [True] * 16


def test_the_first_row_tells_datasets_the_type_of_the_image(source, tmp_path):
    prepare_coin(source, tmp_path / "out")
    file = tmp_path / "out" / "ScienceQA" / "train.jsonl"
    rows = read_rows(file)
    assert [row["image"] is None for row in rows[:7]] == [False] + [True] * 5 + [False]
    # in chunks of a row or two, as long files are read
    loaded = load_dataset(
        "json", data_files=str(file), split="train", chunksize=200, cache_dir=str(tmp_path / "cache")
    )
    assert loaded["image"] == [row["image"] for row in rows]
    assert [row["id"] for row in rows[:3]] == ["ScienceQA-5", "ScienceQA-0", "ScienceQA-1"]


def test_rows_hold_what_every_score_needs(source, tmp_path):
    prepare_coin(source, tmp_path / "out")
    for task in NAMES:
        file = tmp_path / f"{task}.jsonl"
        rows = read_rows(tmp_path / "out" / task / "test.jsonl")
        file.write_text("\n".join(json.dumps({**row, "prediction": "A"}) for row in rows))
        for mode in ("official", "clean"):
            assert score_file(task, file, mode).count == TEST


def test_the_benchmark_reads_what_was_prepared(source, tmp_path):
    out = tmp_path / "out"
    arguments = {"dataset_dir": str(out)}
    (error,) = [error for error in COIN.errors(arguments) if "GQA" in error]
    assert f"sefe prepare coin SOURCE --out {out}" in error
    prepare_coin(source, out)
    assert COIN.errors(arguments) == []
    keys = COIN.prepare(tmp_path / "run", arguments)
    assert keys == {"dataset_dir": str(tmp_path / "run"), "media_dir": str(source)}
    info = json.loads((tmp_path / "run" / "dataset_info.json").read_text())
    assert info["coin_ocrvqa_train"]["file_name"] == str(out / "OCRVQA" / "train.jsonl")
    assert COIN.prepare(tmp_path / "run", {**arguments, "media_dir": "/elsewhere"})["media_dir"] == "/elsewhere"


def test_the_benchmark_names_what_has_gone_since(source, tmp_path):
    out = tmp_path / "out"
    prepare_coin(source, out)
    source.rename(tmp_path / "moved")
    (out / "GQA" / "train.jsonl").unlink()
    gone, moved = COIN.errors({"dataset_dir": str(out)})
    assert gone.startswith(f"{out / 'GQA' / 'train.jsonl'} is missing")
    assert "Set `media_dir` to where it is now" in moved
    assert COIN.errors({"dataset_dir": str(out), "media_dir": str(tmp_path / "moved")}) == [gone]


@pytest.mark.parametrize(
    "manifest",
    [
        "{",
        "[]",
        "{}",
        '{"version": 2, "images": "/tmp"}',
        '{"version": 0, "benchmark": "coin", "variant": "original", "images": "/tmp"}',
        '{"version": 2, "benchmark": "coin", "variant": null, "images": "/tmp"}',
    ],
)
def test_a_manifest_that_is_damaged_or_foreign_is_named(tmp_path, manifest):
    (tmp_path / "manifest.json").write_text(manifest)
    arguments = {"dataset_dir": str(tmp_path), "asd_ratio": 0.2}
    (error,) = COIN.errors(arguments)
    assert f"{tmp_path / 'manifest.json'} was not written by this version of `sefe prepare`. Run it again." in error
    assert COIN.diversified(arguments) is None


def test_samples_of_other_styles_are_not_rewritten_again(source, tmp_path):
    out = tmp_path / "out"
    manifest = prepare_coin(source, out)
    recipe = {"model_name_or_path": "owner/name", "template": "llava", "benchmark": "coin", "dataset_dir": str(out)}
    recipe |= {"output_dir": str(tmp_path / "run")}
    one = {"task_keys": [{"name": "GQA", "asd_ratio": 0.2}]}
    for keys in ({"asd_ratio": 0.2}, one):
        load_recipe(recipe | keys, "test.yaml", host_keys())
    write(out / "manifest.json", manifest | {"variant": "asd20"})
    load_recipe(recipe, "test.yaml", host_keys())
    for keys, names in (({"asd_ratio": 0.2}, ", ".join(NAMES)), (one, "GQA")):
        with pytest.raises(RecipeError) as caught:
            load_recipe(recipe | keys, "test.yaml", host_keys())
        (error,) = caught.value.errors
        assert "of the variant 'asd20', diversified already" in error
        assert error.endswith(f"Set `asd_ratio: 0` for {names}.")
    none = {"task_keys": [{"name": name, "asd_ratio": 0} for name in NAMES]}
    load_recipe(recipe | {"asd_ratio": 0.2} | none, "test.yaml", host_keys())


@pytest.mark.parametrize("skip_broken", [False, True])
def test_images_at_fault_are_named_or_left_out(source, tmp_path, skip_broken):
    out = tmp_path / "out"
    (source / "GQA" / "images" / "0.jpg").unlink()
    cut = source / "VizWiz" / "images" / "1.jpg"
    # the header is whole, so the file opens, but half of the picture is not there
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (source / "VQAv2" / "images" / "2.jpg").write_text("<html>not found</html>")
    if skip_broken:
        manifest = prepare_coin(source, out, skip_broken=True)
        assert manifest["tasks"]["GQA"]["train"] | {"sources": []} == {
            "sources": [],
            "chosen": TRAIN,
            "written": TRAIN - 5,
        }
        assert not any(row["image"].endswith("1.jpg") for row in read_rows(out / "VizWiz" / "test.jsonl"))
        assert len(read_rows(out / "VQAv2" / "test.jsonl")) == TEST - 3
    else:
        with pytest.raises(ValueError, match="are missing or broken") as error:
            prepare_coin(source, out)
        for words in (
            "GQA: 1 missing, 0 broken, such as ./GQA/images/0.jpg (missing)",
            "VizWiz: 0 missing, 1 broken",
            "VQAv2: 0 missing, 1 broken",
            "cocodataset.org",
            "--skip-broken",
        ):
            assert words in str(error.value)
        assert "TextVQA" not in str(error.value)
        assert not (out / "manifest.json").exists()
    faults = [line.split("\t")[:2] for line in (out / FAULTS_FILE).read_text().splitlines()]
    assert faults == [
        ["GQA", "./GQA/images/0.jpg"],
        ["VizWiz", "./VizWiz/images/1.jpg"],
        ["VQAv2", "./VQAv2/images/2.jpg"],
    ]


def test_a_mended_source_leaves_no_old_faults(source, tmp_path):
    out = tmp_path / "out"
    image = source / "GQA" / "images" / "0.jpg"
    content = image.read_bytes()
    image.unlink()
    with pytest.raises(ValueError, match="missing or broken"):
        prepare_coin(source, out)
    image.write_bytes(content)
    prepare_coin(source, out)
    assert not (out / FAULTS_FILE).exists()


def test_subsets_are_drawn_once_for_a_seed(source, tmp_path):
    def draw(seed, **options):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        manifest = prepare_coin(source, out, seed=seed, **options)
        assert manifest["seed"] == seed
        ids = [row["id"] for row in read_rows(out / "VQAv2" / "train.jsonl")]
        return ids, [row["question_id"] for row in read_rows(out / "VQAv2" / "test.jsonl")]

    train, test = draw(1, train_share=0.3, max_test=5)
    assert (len(set(train)), len(set(test))) == (6, 5)
    assert test == sorted(test)
    assert draw(1, train_share=0.3, max_test=5) == (train, test)
    assert draw(1, max_test=5)[1] == test
    other = draw(2, train_share=0.3, max_test=5)
    # equal only with a chance of 1 in C(20, 6) C(12, 5)
    assert other != (train, test)
    assert draw(1, train_share=0.001, max_test=99)[1] == list(range(TEST))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_test": 0}, "at least 1; got 0"),
        ({"train_share": 0.0}, r"in \(0, 1\]; got 0.0"),
        ({"train_share": 1.5}, r"in \(0, 1\]; got 1.5"),
        ({"variant": "slim"}, "must be one of original, diverse, 10type, asd10, .*; got 'slim'"),
    ],
)
def test_bad_options_are_named(source, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare_coin(source, tmp_path / "out", **options)


def test_the_source_is_never_written_to(source):
    with pytest.raises(ValueError, match="write to another folder"):
        prepare_coin(source, source)


def test_a_bad_record_is_named(source, tmp_path):
    records = published_tests("GQA")
    del records[3]["answer"]
    write(source / "annotations" / "GQA" / "test.json", records)
    with pytest.raises(ValueError, match=r"GQA/test\.json: record 4: needs a text as 'answer', got None"):
        prepare_coin(source, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_gold_answer_that_cannot_be_scored_is_named(source, tmp_path):
    records = published_tests("ScienceQA")
    records[1]["answer"] = "Leaves"
    write(source / "annotations" / "ScienceQA" / "test.json", records)
    with pytest.raises(ValueError, match=r"ScienceQA/test\.json: record 2: 'answer' must be an option's letter"):
        prepare_coin(source, tmp_path / "out")


def test_golds_that_no_answer_can_match_are_all_named_or_left_out(source, tmp_path):
    golds = {
        "ScienceQA": ("answer", "E", "the letter of one of its `num_choices` options, .* got 'E'"),
        "Grounding": ("answer_bbox", "[0.5, 0.5, 0.1, 0.2]", "x1 < x2 and y1 < y2"),
        "ImageNet": ("answer", " ", "a text that is not empty"),
    }
    for task, (field, gold, _) in golds.items():
        records = published_tests(task)
        for record in records[:6]:
            record[field] = gold
        write(source / "annotations" / task / "test.json", records)
    (source / "GQA" / "images" / "0.jpg").unlink()
    with pytest.raises(ValueError, match="and 1 more") as error:
        prepare_coin(source, tmp_path / "out")
    for task, (_, _, reason) in golds.items():
        assert re.search(rf"{task}/test\.json: record 1: .*{reason}.*; and 1 more\.\n", str(error.value))
    assert "GQA: 1 missing" in str(error.value)
    assert len((tmp_path / "out" / FAULTS_FILE).read_text().splitlines()) == 19
    assert not (tmp_path / "out" / "manifest.json").exists()
    manifest = prepare_coin(source, tmp_path / "out", skip_broken=True)
    counts = manifest["tasks"]["ImageNet"]["test"]
    assert (counts["chosen"], counts["written"]) == (TEST, TEST - 6)


@pytest.mark.parametrize("answers", [[{"answer": "a"}], "yes", ["a", 1]])
def test_answers_of_another_shape_are_named(source, tmp_path, answers):
    records = published_tests("TextVQA")
    records[2]["answers"] = answers
    write(source / "annotations" / "TextVQA" / "test.json", records)
    with pytest.raises(ValueError, match=r"TextVQA/test\.json: record 3: needs a list of texts as 'answers', got "):
        prepare_coin(source, tmp_path / "out")


LAYOUTS = [
    (name, folder, file)
    for name, variant in TABLE.variants.items()
    for folder in variant.folders
    for file in variant.train or TABLE.tasks[0].train
]


@pytest.mark.parametrize(("variant", "folder", "train"), LAYOUTS)
def test_every_published_layout_is_found(tmp_path, variant, folder, train):
    for task in NAMES:
        test = {"TextVQA": "val.json", "VizWiz": "val.json", "VQAv2": "val.json", "OCRVQA": "test_1.json"}
        for name in (train, test.get(task, "test.json")):
            write(tmp_path / folder / task / name, [])
        if task in ("TextVQA", "VizWiz", "VQAv2"):
            # without answers: not what the official scripts use
            write(tmp_path / folder / task / "test.json", [])
    found = find_annotations(tmp_path, variant)
    assert list(found) == NAMES
    assert {file.name for files in found.values() for file in files.train} == {train}
    assert [files.test[0].name for files in found.values()] == [test.get(task, "test.json") for task in NAMES]


def test_missing_files_are_all_named_with_their_origin(tmp_path):
    write(tmp_path / "GQA" / "train.json", [])
    with pytest.raises(ValueError, match="files of CoIN") as error:
        find_annotations(tmp_path, "original")
    assert str(error.value).count("\n  - ") == 15
    assert "  - GQA: test.json or test_1.json" in str(error.value)
    assert "Zacks-Chen/CoIN, CC BY 4.0" in str(error.value)
    with pytest.raises(ValueError, match="CoIN-ASD, MIT"):
        find_annotations(tmp_path / "none", "asd20")


@pytest.mark.parametrize("scorer", ["box", {"name": "box", "iou": 0.7}])
def test_the_field_of_the_gold_answer_is_that_of_the_scorer(scorer):
    (task,) = (task for task in TABLE.tasks if task.name == "Grounding")
    assert gold_field(replace(task, scorer=scorer)) == "answer_bbox"
    assert gold_field(replace(task, scorer="short_answer")) == "answer"


def test_the_command_prepares(source, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    out = tmp_path / "out"
    options = parser.parse_args(["prepare", "coin", str(source), "--out", str(out), "--max-test", "3", "--seed", "7"])
    options.run(options)
    assert f"CoIN is ready in {out}" in capsys.readouterr().out
    assert json.loads((out / "manifest.json").read_text())["max_test"] == 3

"""ASD on datasets as the host aligns them: ShareGPT and Alpaca, one turn and several."""

import json
from types import SimpleNamespace

import pytest
from datasets import Dataset

from sefe_plugin.answers.styles import FORMAT_LINES, SHORT_ANSWER
from sefe_plugin.hosts.llamafactory.dataset import _scored_as, diversify_dataset, scored_by
from sefe_plugin.run.progress import ProgressFile


LINE = FORMAT_LINES[SHORT_ANSWER]


def aligned(conversations, images=None) -> Dataset:
    """A dataset in the host's columns from lists of (question, answer) turns."""
    rows = []
    for index, turns in enumerate(conversations):
        roles = ("user", "assistant") * len(turns)
        texts = [text for turn in turns for text in turn]
        messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
        row = {"_prompt": messages[:-1], "_response": messages[-1:], "_system": "", "_tools": ""}
        rows.append(row | {"_images": [images[index]] if images else None})
    return Dataset.from_list(rows)


@pytest.fixture
def arguments(tmp_path):
    return SimpleNamespace(seed=3, should_save=True, output_dir=str(tmp_path))


def asd(ratio: float, extra: bool = False) -> SimpleNamespace:
    return SimpleNamespace(asd_ratio=ratio, asd_extra=extra)


def turn(index: int) -> tuple[str, str]:
    return f"What is at place {index}?\n{LINE}", ("cat", "dog", "hen", "cow", "pig")[index % 5]


@pytest.mark.parametrize("turns", [1, 3])
def test_exact_share_of_questions_in_place(arguments, tmp_path, turns):
    conversations = [[turn(turns * i + t) for t in range(turns)] for i in range(40)]
    before = aligned(conversations, images=[f"{i}.png" for i in range(40)])
    after = diversify_dataset(before, "mine", asd(0.2), arguments)
    assert len(after) == len(before)
    assert after["_images"] == before["_images"]
    assert after.features == before.features
    flat = [
        [(m[i]["content"], m[i + 1]["content"]) for row in d for m in [[*row["_prompt"], *row["_response"]]]
         for i in range(0, 2 * turns, 2)]
        for d in (before, after)
    ]  # fmt: skip
    changed = [index for index, (old, new) in enumerate(zip(*flat, strict=True)) if old != new]
    records = [json.loads(line) for line in (tmp_path / "asd.jsonl").read_text().splitlines()]
    assert len(changed) == round(0.2 * 40 * turns)
    assert [record["index"] for record in records] == changed
    for record in records:
        assert record["before"] == dict(zip(("question", "answer"), flat[0][record["index"]], strict=True))
        assert record["after"] == dict(zip(("question", "answer"), flat[1][record["index"]], strict=True))
        assert record["after"]["question"].endswith(FORMAT_LINES[record["style"]])


@pytest.mark.parametrize("turns", [1, 3])
def test_extra_samples_follow_the_originals(arguments, tmp_path, turns):
    before = aligned([[turn(turns * i + t) for t in range(turns)] for i in range(40)])
    inplace = diversify_dataset(before, "mine", asd(0.2), arguments)
    after = diversify_dataset(before, "mine", asd(0.2, extra=True), arguments)
    changed = [i for i in range(40) if inplace[i] != before[i]]
    assert len(changed) == 8 or turns > 1
    assert after.to_list() == [*before.to_list(), *(inplace[i] for i in changed)]


def test_records_of_several_datasets_stand_side_by_side(arguments, tmp_path):
    data = aligned([[turn(i)] for i in range(20)])
    for name in ("one", "two", "one"):  # a dataset that is loaded again replaces its own record
        diversify_dataset(data, name, asd(0.5), arguments)
    names = [json.loads(line)["dataset"] for line in (tmp_path / "asd.jsonl").read_text().splitlines()]
    assert sorted(names) == ["one"] * 10 + ["two"] * 10


def test_line_separators_in_a_text_cut_no_record(arguments, tmp_path):
    data = aligned([[(f"What\u2028is\x85it {i}?\n{LINE}", f"a\u2029b {i % 5}")] for i in range(20)])
    for _ in range(2):
        diversify_dataset(data, "one", asd(0.5), arguments)
    lines = (tmp_path / "asd.jsonl").read_text(encoding="utf-8").split("\n")
    assert len([json.loads(line) for line in lines[:-1]]) == 10


def turns_of(row):
    texts = [message["content"] for message in [*row["_prompt"], *row["_response"]]]
    return list(zip(texts[::2], texts[1::2], strict=True))


def test_turns_beside_a_rewritten_one_say_their_style_themselves(arguments, tmp_path):
    """As in LLaVA's conversations, where the first question alone has the line."""
    conversations = [[turn(3 * i), *((f"And now {3 * i + t}?", "yak") for t in (1, 2))] for i in range(40)]
    before = aligned(conversations)
    after = diversify_dataset(before, "mine", asd(0.2), arguments)
    records = [json.loads(line) for line in (tmp_path / "asd.jsonl").read_text().splitlines()]
    rewritten = {record["index"] for record in records}
    seen = set()
    for i, (old, new) in enumerate(zip(map(turns_of, before), map(turns_of, after), strict=True)):
        changed = [t for t in range(3) if 3 * i + t in rewritten]
        seen.add(bool(changed))
        for t in range(3):
            if t not in changed:
                own_line = f"{old[t][0]}\n{LINE}" if changed and t > 0 else old[t][0]
                assert new[t] == (own_line, old[t][1])
            else:
                assert new[t] != old[t] and any(new[t][0].endswith(line) for line in FORMAT_LINES.values())
    assert seen == {True, False}


def test_single_turns_without_a_line_stay_as_they_are(arguments):
    before = aligned([[(f"What is at place {i}?", ("cat", "dog", "hen", "cow", "pig")[i % 5])] for i in range(40)])
    after = diversify_dataset(before, "mine", asd(0.2), arguments)
    assert sum(a != b for a, b in zip(map(turns_of, before), map(turns_of, after), strict=True)) == 8
    assert sum(turns_of(row)[0][0].endswith(tuple(FORMAT_LINES.values())) for row in after) == 8


def test_boxes_have_no_line_to_add(arguments):
    question = "Please provide the box described by the sentence 'x' in the format [x1, y1, x2, y2]."
    box = [(question, f"[0.1, 0.2, 0.3, 0.{i}]") for i in range(4, 10)]
    before = aligned([[box[i % 6], box[(i + 1) % 6]] for i in range(20)])
    after = diversify_dataset(before, "mine", asd(0.2), arguments)
    old, new = ([turn for row in data for turn in turns_of(row)] for data in (before, after))
    assert sum(a != b for a, b in zip(old, new, strict=True)) == 8


def test_other_processes_write_no_record(arguments, tmp_path):
    arguments.should_save = False
    diversify_dataset(aligned([[turn(i)] for i in range(20)]), "mine", asd(0.5), arguments)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_question_and_answer_is_refused(arguments):
    data = aligned([[turn(0)]] * 4)
    data = data.map(lambda row: row | {"_response": row["_response"] * 2})
    with pytest.raises(ValueError, match=r"sample 0 of dataset pairs has the roles .*Leave `asd_ratio` out"):
        diversify_dataset(data, "pairs", asd(0.5), arguments)


def loaded_by_the_host(folder, arguments, **keys):
    """What the host's own loader makes of 30 rows, under two names: the training part and the held-out one."""
    from llamafactory.data import loader
    from llamafactory.hparams.data_args import DataArguments
    from llamafactory.hparams.model_args import ModelArguments

    rows = [{"instruction": q, "input": "", "output": a} for q, a in map(turn, range(30))]
    (folder / "rows.json").write_text(json.dumps(rows))
    info = {name: {"file_name": "rows.json"} for name in ("train", "more")}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    data_args = DataArguments(dataset="train,more", dataset_dir=str(folder), overwrite_cache=True, **keys)
    model_args = ModelArguments(model_name_or_path="none", cache_dir=str(folder / "cache"))
    arguments.do_train, arguments.local_process_index = True, 0
    merged = loader._get_merged_dataset(data_args.dataset, model_args, data_args, arguments, stage="sft")
    train, held_out = loader.split_dataset(merged, None, data_args, seed=arguments.seed)
    return train["train"], held_out.get("validation")


@pytest.mark.parametrize("val_size", [0.2, 12])
def test_what_is_held_back_stays_as_it_is(arguments, tmp_path, val_size):
    plain = loaded_by_the_host(tmp_path, arguments, val_size=val_size)
    train, held_out = loaded_by_the_host(tmp_path, arguments, val_size=val_size, asd_ratio=0.5)
    assert held_out.to_list() == plain[1].to_list() and len(held_out) == 12
    assert train.column_names == plain[0].column_names and train.features == plain[0].features
    changed = [i for i, (old, new) in enumerate(zip(plain[0], train, strict=True)) if old != new]
    records = [json.loads(line) for line in (tmp_path / "asd.jsonl").read_text().splitlines()]
    # half of what each dataset has in the training part, which is 48 rows of both
    parts = {name: [r for r in records if r["dataset"] == name] for name in ("train", "more")}
    assert len(changed) == len(records) == sum(map(len, parts.values())) in (23, 24, 25)
    assert all(20 <= 2 * len(part) <= 28 for part in parts.values())
    # each record tells what its row was
    assert sorted(r["before"]["question"] for r in records) == sorted(
        plain[0][i]["_prompt"][0]["content"] for i in changed
    )


def test_extra_samples_come_from_the_training_part_alone(arguments, tmp_path):
    plain = loaded_by_the_host(tmp_path, arguments, val_size=12)
    train, held_out = loaded_by_the_host(tmp_path, arguments, val_size=12, asd_ratio=0.5, asd_extra=True)
    assert held_out.to_list() == plain[1].to_list()
    assert train.select(range(48)).to_list() == plain[0].to_list()
    records = [json.loads(line) for line in (tmp_path / "asd.jsonl").read_text().splitlines()]
    assert sorted(turns_of(row) for row in train.select(range(48, len(train)))) == sorted(
        [tuple(record["after"].values())] for record in records
    )


def test_without_a_held_back_part_the_order_of_steps_is_as_ever(arguments, tmp_path):
    train, held_out = loaded_by_the_host(tmp_path, arguments, asd_ratio=0.5)
    assert held_out is None and len(train) == 60
    rows = [[turn(i)] for i in range(30)]
    expected = [diversify_dataset(aligned(rows), name, asd(0.5), arguments) for name in ("train", "more")]
    assert [turns_of(row) for row in train] == [turns_of(row) for part in expected for row in part]


def test_texts_that_are_none_are_named(arguments):
    data = aligned([[("What?", None)]] * 4)
    with pytest.raises(
        ValueError, match=r"sample 0 of dataset odd must have a text in every message, got \['What\?', N"
    ):
        diversify_dataset(data, "odd", asd(0.5), arguments)


def test_the_scorer_of_the_task_tells_what_a_letter_is(arguments):
    options = "Options: Maine / Ohio / Utah"
    data = aligned([[(f"Which is number {i}?\n{options}\n{LINE}", "ABC"[i % 3])] for i in range(20)])
    earlier = {"name": "a", "dataset": "a", "scorer": "short_answer"}
    sets = [earlier, {"name": "b", "dataset": "b", "scorer": "multiple_choice", "own": True}]
    with scored_by(sets), pytest.raises(ValueError, match=r"samples of style 'multiple_choice' .* only 0 can be"):
        diversify_dataset(data, "letters", asd(0.5), arguments)
    # outside of it, the line tells
    assert len(diversify_dataset(data, "letters", asd(0.5), arguments)) == 20


def test_the_training_of_a_task_knows_its_scorer():
    from sefe_plugin.hosts.llamafactory.task import _train

    seen = []

    def host(*arguments):
        seen.append(_scored_as.get())

    training = SimpleNamespace(process_index=1, ddp_broadcast_buffers=None)
    other, own = {"name": "a", "scorer": "box"}, {"name": "b", "scorer": "multiple_choice", "own": True}
    # the test sets of earlier tasks say nothing of one that has none itself, or no scorer
    for test_sets in ([other, own], [own], [other], [other, own | {"scorer": "none"}], [], None):
        finetuning = SimpleNamespace(stacked_adapter=None, cl_method=None, test_sets=test_sets)
        trackers = SimpleNamespace(callbacks=[], hide=lambda: None)
        _train(host, (None, None, training, finetuning, None), trackers, ProgressFile(None))
    assert seen == ["multiple_choice", "multiple_choice", None, None, None, None] and _scored_as.get() is None


@pytest.mark.parametrize("formatting", ["sharegpt", "alpaca"])
def test_loads_through_the_host(formatting, arguments, tmp_path):
    """From files on disk through LLaMA-Factory's own loader; evaluation data stays as it is."""
    from llamafactory.data.loader import _get_merged_dataset
    from llamafactory.hparams.data_args import DataArguments
    from llamafactory.hparams.model_args import ModelArguments

    if formatting == "sharegpt":
        rows = [
            {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
            for q, a in map(turn, range(30))
        ]
        entry = {"formatting": "sharegpt"}
    else:
        rows = [{"instruction": q, "input": "", "output": a} for q, a in map(turn, range(30))]
        entry = {}
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    info = {name: {"file_name": "rows.json", **entry} for name in ("train", "more", "held_out")}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    data_args = DataArguments(
        dataset="train,more", eval_dataset="held_out", dataset_dir=str(tmp_path), asd_ratio=0.4, overwrite_cache=True
    )
    model_args = ModelArguments(model_name_or_path="none", cache_dir=str(tmp_path / "cache"))
    arguments.do_train, arguments.local_process_index = True, 0
    loaded = {
        names[0]: _get_merged_dataset(names, model_args, data_args, arguments, stage="sft")
        for names in (data_args.dataset, data_args.eval_dataset)
    }
    originals = [turn(i) for i in range(30)]
    for name, expected in (("train", 24), ("held_out", 0)):
        now = [(row["_prompt"][0]["content"], row["_response"][0]["content"]) for row in loaded[name]]
        assert sum(a != b for a, b in zip(now, originals * (len(now) // 30), strict=True)) == expected
    # two datasets of one file are told apart
    names = [json.loads(line)["dataset"] for line in (tmp_path / "asd.jsonl").read_text().splitlines()]
    assert names == ["train"] * 12 + ["more"] * 12


def test_the_rewritten_dataset_is_named_by_what_it_holds(arguments):
    """So that the cache of `datasets` finds it again, and takes no other for it."""
    before = aligned([[turn(i)] for i in range(40)])
    other = aligned([[turn(i)] for i in range(39, -1, -1)])
    name = diversify_dataset(before, "mine", asd(0.2), arguments)._fingerprint
    assert diversify_dataset(before, "yours", asd(0.2), arguments)._fingerprint == name
    seed = SimpleNamespace(**{**vars(arguments), "seed": 4})
    named = {name, before._fingerprint, diversify_dataset(other, "mine", asd(0.2), arguments)._fingerprint}
    named |= {diversify_dataset(before, "mine", asd(*ratio), given)._fingerprint for ratio, given in (
        ((0.4,), arguments), ((0.2,), seed)
    )}  # fmt: skip
    assert len(named) == 5

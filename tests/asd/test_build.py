import json
import logging
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from sefe_plugin.answers.styles import BRIEF, DETAILED, FORMAT_LINES, MULTIPLE_CHOICE, SHORT_ANSWER, YES_NO
from sefe_plugin.asd.build import build
from sefe_plugin.asd.dataset import open_dataset
from sefe_plugin.asd.diversify import diversify
from sefe_plugin.asd.rules import other_styles
from sefe_plugin.asd.writer.generators import NoReplyError
from sefe_plugin.asd.writer.templates import Task, load_task
from sefe_plugin.data.sample import Sample
from sefe_plugin.files import shipped_folder


GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))
SHIPPED = shipped_folder("data_templates") / "asd"
COLORS = ("red", "blue", "green", "grey", "black", "3", "yes")


def task_samples(name, count):
    pairs = GOLDEN[name]["samples"]
    return [Sample(*pairs[i % len(pairs)]) for i in range(count)]


def short_samples(count):
    return [Sample(f"<image>\nWhat color is number {i}?", COLORS[i % len(COLORS)]) for i in range(count)]


def write(folder, samples, suffix=".json", images=None):
    """A file of one picture, or of those that `images` names, in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40)).save(folder / "0.png")
    records = [
        {
            "question_id": i,
            "image": images(i) if images else "0.png",
            "conversations": [{"from": "human", "value": sample.question}, {"from": "gpt", "value": sample.answer}],
        }
        for i, sample in enumerate(samples)
    ]
    file = folder / f"data{suffix}"
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    file.write_text("[" + ",\n".join(lines) + "]" if suffix == ".json" else "\n".join(lines) + "\n")
    return open_dataset(str(file), folder)


def records_of(file):
    text = file.read_text(encoding="utf-8")
    return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]


def turn(record):
    return Sample(*(message["value"] for message in record["conversations"]))


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("ratio", [0, 0.05, 0.1, 0.2, 0.4, 1])
def test_by_rule_the_file_is_what_diversify_makes_and_counts_are_exact(tmp_path, name, ratio):
    samples = task_samples(name, 137)
    dataset = write(tmp_path, samples)
    summary = build(dataset, tmp_path / "new.json", ratio, seed=3, task=load_task(name, SHIPPED))
    expected, origins = diversify(samples, ratio, seed=3)
    records, before = records_of(tmp_path / "new.json"), records_of(tmp_path / "data.json")
    assert [turn(record) for record in records] == expected
    changed = {i: record["asd"] for i, record in enumerate(records) if "asd" in record}
    assert sorted(changed) == [origin.index for origin in origins] and len(changed) == round(ratio * 137)
    for origin in origins:
        native = GOLDEN[name]["native"]
        asd = {"native_style": native, "style": origin.style, "question": origin.question, "answer": origin.answer}
        assert changed[origin.index] == {**asd, "generator": "rules"}
        assert records[origin.index]["image"] == before[origin.index]["image"]
    assert [record for i, record in enumerate(records) if i not in changed] == [
        record for i, record in enumerate(before) if i not in changed
    ]
    styles = Counter(origin.style for origin in origins)
    assert summary.styles == {style: {"rules": count} for style, count in styles.items()}
    if ratio == 0:
        assert (tmp_path / "new.json").read_bytes() == (tmp_path / "data.json").read_bytes()


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_the_manifest_says_what_was_done(tmp_path, suffix):
    dataset = write(tmp_path, short_samples(50), suffix)
    build(dataset, tmp_path / f"new{suffix}", 0.2, seed=7)
    first = (tmp_path / f"new{suffix}").read_bytes()
    manifest = json.loads((tmp_path / f"new{suffix}.manifest.json").read_text())
    assert manifest.items() >= {"ratio": 0.2, "seed": 7, "generator": "rules", "samples": 50}.items()
    assert manifest["native_style"] == SHORT_ANSWER and sum(s["rules"] for s in manifest["styles"].values()) == 10
    build(dataset, tmp_path / f"new{suffix}", 0.2, seed=7)
    assert (tmp_path / f"new{suffix}").read_bytes() == first
    build(dataset, tmp_path / f"new{suffix}", 0.2, seed=8)
    assert (tmp_path / f"new{suffix}").read_bytes() != first
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["0.png", f"data{suffix}", f"new{suffix}", f"new{suffix}.manifest.json"]
    )


def test_arguments_that_do_not_fit_leave_nothing(tmp_path):
    dataset = write(tmp_path, short_samples(20))
    for target, ratio, message in (
        (tmp_path / "data.json", 0.2, "is the dataset itself"),
        (tmp_path / "new.json", 20, r"share in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            build(dataset, target, ratio, seed=0)
    build(dataset, tmp_path / "new.json", 0.2, seed=0)
    with pytest.raises(ValueError, match="is rewritten already"):
        build(open_dataset(str(tmp_path / "new.json"), tmp_path), tmp_path / "newer.json", 1.0, seed=0)
    explained = write(tmp_path / "e", [Sample(f"Why?\n{FORMAT_LINES[BRIEF]}", "Because it is so.")] * 20)
    with pytest.raises(ValueError, match="let a model write"):
        build(explained, tmp_path / "e" / "new.json", 0.2, seed=0)
    assert not (tmp_path / "newer.json").exists() and not (tmp_path / "e" / "new.json").exists()


@pytest.mark.parametrize(("concurrency", "tries"), [(0, 3), (-1, 3), (4, 0)])
def test_a_model_that_would_never_be_asked_is_an_error(tmp_path, model, concurrency, tries):
    dataset, generator = write(tmp_path, short_samples(20)), model(concurrency=concurrency)
    with pytest.raises(ValueError, match=r"(concurrency|tries) must be at least 1, got (0|-1): the model"):
        build(dataset, tmp_path / "new.json", 1.0, seed=0, generator=generator, tries=tries)
    assert not (tmp_path / "new.json").exists()


def test_samples_of_several_turns_stay_as_they_are(tmp_path, caplog):
    dataset = write(tmp_path, short_samples(40))
    records = records_of(tmp_path / "data.json")
    for record in records[::4]:
        record["conversations"] *= 2
    (tmp_path / "data.json").write_text(json.dumps(records))
    dataset = open_dataset(str(tmp_path / "data.json"), tmp_path)
    with caplog.at_level(logging.WARNING):
        build(dataset, tmp_path / "new.json", 0.7, seed=0)
    new = records_of(tmp_path / "new.json")
    assert new[::4] == records[::4] and sum("asd" in record for record in new) == 28
    assert "passed over" in caplog.text


@pytest.mark.parametrize("name", GOLDEN)
def test_a_model_writes_what_rules_cannot(tmp_path, model, name):
    dataset = write(tmp_path, task_samples(name, 60))
    task, generator = load_task(name, SHIPPED), model()
    summary = build(dataset, tmp_path / "new.json", 1.0, seed=1, task=task, generator=generator)
    by_rule = records_of(tmp_path / "data.json"), diversify(task_samples(name, 60), 1.0, seed=1)[0]
    authors = Counter()
    for old, rule, record in zip(*by_rule, records_of(tmp_path / "new.json"), strict=True):
        new, asd = turn(record), record["asd"]
        authors[asd["style"], "rules" if asd["generator"] == "rules" else "model"] += 1
        assert asd["generator"] in ("rules", "in process")
        assert Sample(asd["question"], asd["answer"]) == turn(old)
        assert new.question.endswith(FORMAT_LINES[asd["style"]])
        if asd["generator"] == "rules":
            assert new == rule
        elif asd["style"] == YES_NO:
            assert new.answer == "No" and "\nIs the answer purple?\n" in new.question
        elif asd["style"] == MULTIPLE_CHOICE:
            options = dict(line.split(". ", 1) for line in new.question.split("\n") if line[1:3] == ". ")
            assert set(options.values()) == {"purple", "a wrong one", "7777", asd["answer"]}
            assert options[new.answer] == asd["answer"]
        else:
            assert new.answer.startswith("The picture shows that ")
    assert {(style, author): n for style, made in summary.styles.items() for author, n in made.items()} == authors
    explained = [style for style in other_styles(GOLDEN[name]["native"]) if style in (BRIEF, DETAILED)]
    assert all(set(summary.styles[style]) == {"model"} for style in explained) and len(explained) == 2
    assert not summary.failures
    grouped = {"GQA", "VQAv2", "OCRVQA", "Grounding"}
    asked = sum(n for (_, author), n in authors.items() if author == "model")
    assert summary.asked == len(generator.conversations)
    assert summary.asked <= asked // 12 + 4 if name in grouped else summary.asked == asked
    assert all(images == (tmp_path / "0.png",) for _, images in generator.conversations)


def test_what_fails_falls_back_to_rules_and_is_counted(tmp_path, model):
    samples = short_samples(80)
    dataset = write(tmp_path, samples)
    generator = model(lambda turns: "I would rather not.")
    summary = build(dataset, tmp_path / "new.json", 0.5, seed=1, generator=generator, tries=3, max_fallback=1)
    assert [turn(record) for record in records_of(tmp_path / "new.json")] == diversify(samples, 0.5, seed=1)[0]
    failed = sum(made.get("fallback", 0) for made in summary.styles.values())
    assert summary.failures == {"no usable reply": failed} and failed > 20
    assert not any("model" in made for made in summary.styles.values())
    # Each request has three tries, and each try shows what was wrong with the one before.
    assert len(generator.conversations) == 3 * failed == summary.asked
    assert sorted({len(turns) for turns, _ in generator.conversations}) == [1, 3, 5]
    for turns, _ in generator.conversations:
        assert set(turns[1::2]) <= {"I would rather not."}
        assert all("- entry 1: is missing" in correction for correction in turns[2::2])


def test_only_the_missing_entries_are_asked_for_again(tmp_path, model):
    def reply(turns):
        start = turns[0].index("Entries:\n") + 9
        entries = json.loads(turns[0][start : turns[0].index("\n\nReply with")])
        good = [
            {"index": e["index"], "question": e["question"], "text": f"It is {e['answer']}, as seen."} for e in entries
        ]
        return json.dumps(good[:-1] if len(turns) == 1 else good[-1:])

    dataset = write(tmp_path, [Sample(f"<image>\nIs it number {i}?", ("yes", "no")[i % 2]) for i in range(32)])
    task, generator = Task(per_image=True, native_style=YES_NO), model(reply)
    summary = build(dataset, tmp_path / "new.json", 1.0, seed=1, task=task, generator=generator)
    assert summary.styles[BRIEF] == summary.styles[DETAILED] == {"model": 8}
    assert sorted(len(turns) for turns, _ in generator.conversations) == [1, 1, 3, 3]


def test_a_model_that_is_gone_stops_the_build_and_keeps_its_replies(tmp_path, model):
    dataset = write(tmp_path, short_samples(200))
    complete = tmp_path / "complete" / "new.json"
    build(dataset, complete, 1.0, seed=1, generator=model())

    def tires(turns, replies=[]):  # noqa: B006
        replies.append(turns)
        if len(replies) > 30:
            raise NoReplyError("no answer in time")
        return good(turns)

    good = model()._reply
    with pytest.raises(ConnectionError, match="in a row got no reply, the last: no answer in time"):
        build(dataset, tmp_path / "new.json", 1.0, seed=1, generator=model(tires))
    assert not (tmp_path / "new.json").exists()
    assert len((tmp_path / "new.json.journal.jsonl").read_text().splitlines()) == 30
    again = model()
    summary = build(dataset, tmp_path / "new.json", 1.0, seed=1, generator=again)
    assert (tmp_path / "new.json").read_bytes() == complete.read_bytes()
    assert summary.asked == len(again.conversations) == len({turns for turns, _ in again.conversations})
    total = len((tmp_path / "new.json.journal.jsonl").read_text().splitlines())
    assert summary.asked == total - 30
    assert build(dataset, tmp_path / "new.json", 1.0, seed=1, generator=model()).asked == 0


def test_a_build_that_is_repeated_gives_up_no_earlier(tmp_path, model):
    dataset = write(tmp_path, short_samples(200))

    def refuses_some(turns):
        if sum(map(ord, turns[0])) % 3 == 0:
            raise NoReplyError("status 400")
        return model()._reply(turns)

    summary = build(dataset, tmp_path / "new.json", 1.0, seed=1, generator=model(refuses_some), max_fallback=1)
    first = (tmp_path / "new.json").read_bytes()
    # More than the 16 silent requests in a row that stop a build of four at once.
    assert summary.failures["status 400"] > 20 and summary.asked > 0
    again = build(dataset, tmp_path / "new.json", 1.0, seed=1, generator=model(refuses_some), max_fallback=1)
    assert (again.failures, again.asked) == (summary.failures, 0)
    assert (tmp_path / "new.json").read_bytes() == first


def test_images_that_cannot_be_read_are_no_silence_of_the_model(tmp_path, model):
    dataset = write(tmp_path, task_samples("Grounding", 120))
    (tmp_path / "0.png").unlink()
    task, generator = load_task("Grounding", SHIPPED), model()
    summary = build(dataset, tmp_path / "new.json", 1.0, seed=1, task=task, generator=generator, max_fallback=1)
    assert summary.failures == {"an image cannot be read": 60} and not generator.conversations
    assert summary.styles[BRIEF] == summary.styles[DETAILED] == {"fallback": 30}


@pytest.mark.parametrize("name", ["VQAv2", "ImageNet"])
def test_images_may_be_mappings_with_a_path(tmp_path, model, name):
    dataset = write(tmp_path, task_samples(name, 40), images=lambda i: [{"path": "0.png", "bytes": None}])
    generator = model()
    build(dataset, tmp_path / "new.json", 1.0, seed=1, task=load_task(name, SHIPPED), generator=generator)
    assert {images for _, images in generator.conversations} == {(tmp_path / "0.png",)}


@pytest.mark.parametrize("image", [{"bytes": "iVBO"}, {"path": None}, 5])
def test_an_image_without_a_path_is_an_error_that_names_the_sample(tmp_path, model, image):
    dataset = write(tmp_path, short_samples(20), images=lambda i: image if i == 7 else "0.png")
    with pytest.raises(ValueError, match=r"data\.json: an image of sample 7 must be a path, or a mapping"):
        build(dataset, tmp_path / "new.json", 1.0, seed=1, generator=model())
    assert not (tmp_path / "new.json").exists()


def test_replies_under_other_options_are_not_taken_over(tmp_path, model):
    dataset = write(tmp_path, short_samples(40))
    asked = []
    for options in ({"max_tokens": 9, "seed": 1}, {"max_tokens": 99, "seed": 1}, {"seed": 1, "max_tokens": 9}):
        generator = model()
        generator.options = options
        asked.append(build(dataset, tmp_path / "new.json", 1.0, seed=1, generator=generator).asked)
    assert asked[0] == asked[1] > 0 and asked[2] == 0


def test_a_file_of_several_turns_alone_is_named_as_such(tmp_path):
    write(tmp_path, short_samples(20))
    records = records_of(tmp_path / "data.json")
    for record in records:
        record["conversations"] *= 2
    (tmp_path / "data.json").write_text(json.dumps(records))
    with pytest.raises(ValueError, match=r"no sample of one question and one answer.*`asd_ratio`"):
        build(open_dataset(str(tmp_path / "data.json"), tmp_path), tmp_path / "new.json", 0.2, seed=0)


def test_tasks_of_explanations_are_made_by_a_model(tmp_path, model):
    samples = [Sample(f"Describe picture {i}.", f"There is a cat number {i} on a mat, asleep.") for i in range(40)]
    task = Task(native_style=BRIEF)

    def reply(turns):
        parsed = json.loads(model()._reply(turns))
        return json.dumps([entry | ({"text": "cat"} if "five words" in turns[0] else {}) for entry in parsed])

    summary = build(write(tmp_path, samples), tmp_path / "new.json", 1.0, seed=0, task=task, generator=model(reply))
    assert summary.styles[SHORT_ANSWER] == summary.styles[DETAILED] == {"model": 10}
    short = [r for r in records_of(tmp_path / "new.json") if r["asd"]["style"] == SHORT_ANSWER]
    assert all(turn(record).answer == "cat" for record in short)
    # Without a usable reply, nothing can stand in.
    dataset = write(tmp_path / "2", samples)
    no = model(lambda turns: "no")
    summary = build(dataset, tmp_path / "2" / "new.json", 1.0, seed=0, task=task, generator=no, max_fallback=1)
    assert summary.styles[SHORT_ANSWER] == {"left": 10}
    assert sum("asd" in record for record in records_of(tmp_path / "2" / "new.json")) == 20


def test_small_models_may_reply_plainly(tmp_path, model):
    samples = short_samples(40)
    task = Task(native_style=SHORT_ANSWER, kind="plain", replies="plain")
    generator = model(lambda turns: "It is red, I think.")
    dataset = write(tmp_path, samples)
    summary = build(dataset, tmp_path / "new.json", 1.0, seed=0, task=task, generator=generator, max_fallback=1)
    records = records_of(tmp_path / "new.json")
    for record in records:
        if record["asd"]["style"] in (BRIEF, DETAILED) and record["asd"]["answer"] == "red":
            assert turn(record).answer == "It is red, I think."
        else:
            assert record["asd"]["generator"] == "rules"
    assert any(made.get("model") for made in summary.styles.values())
    first = generator.conversations[0][0][0]
    assert first.startswith("What color is number ") and first.split("\n")[1] in FORMAT_LINES.values()


def test_a_model_that_writes_too_little_ends_the_build_and_the_same_command_goes_on(tmp_path, model):
    dataset, target = write(tmp_path, short_samples(80)), tmp_path / "new.json"
    useless = model(lambda turns: "I would rather not.")
    message = (
        r"(\d+) of \1 samples that the model was to write .* a share of 1 where --max-fallback allows 0\.05: no usable"
    )
    with pytest.raises(ValueError, match=message):
        build(dataset, target, 1.0, seed=1, generator=useless)
    assert not target.exists() and not target.with_name("new.json.manifest.json").exists()
    asked = len(useless.conversations)
    # what it said is kept: who accepts it gets the file, and nobody is asked again
    accepted = model(lambda turns: "I would rather not.")
    summary = build(dataset, target, 1.0, seed=1, generator=accepted, max_fallback=1)
    assert asked > 0 and summary.asked == len(accepted.conversations) == 0
    assert {record["asd"]["generator"] for record in records_of(target)} == {"rules"}
    # nor does the manifest name a model that wrote nothing
    assert json.loads(target.with_name("new.json.manifest.json").read_text())["generator"] == "rules"


@pytest.mark.parametrize(("failing", "ends"), [(3, False), (4, True)])
def test_the_share_without_the_models_texts_is_exact(tmp_path, model, failing, ends):
    samples = [Sample(f"What color is number {i}?", COLORS[i % 4]) for i in range(80)]
    asked = []

    def reply(turns):
        if len(turns) == 1:
            asked.append(turns[0])
        return "no" if turns[0] in asked[:failing] else model()._reply(turns[:1])

    dataset, target = write(tmp_path, samples), tmp_path / "new.json"
    summary = build(dataset, target, 1.0, seed=1, generator=model(reply), max_fallback=1)
    wanted = summary.count("model", "fallback")
    assert summary.count("fallback") == failing
    target.unlink()
    share = 3 / wanted
    if ends:
        with pytest.raises(ValueError, match="--max-fallback"):
            build(dataset, target, 1.0, seed=1, generator=model(reply), max_fallback=share)
    else:
        build(dataset, target, 1.0, seed=1, generator=model(reply), max_fallback=share)
    assert target.exists() != ends


@pytest.mark.parametrize("share", [-0.1, 5, float("nan")])
def test_a_share_out_of_range_is_an_error(tmp_path, share):
    with pytest.raises(ValueError, match=r"max_fallback must be a share in \[0, 1\], got"):
        build(write(tmp_path, short_samples(20)), tmp_path / "new.json", 0.2, seed=0, max_fallback=share)

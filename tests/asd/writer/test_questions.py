import json
import random
from pathlib import Path

import pytest
from PIL import Image

from sefe_plugin.answers.styles import BRIEF, DETAILED, EXPLANATIONS, MULTIPLE_CHOICE, SHORT_ANSWER, STYLES, YES_NO
from sefe_plugin.asd.diversify import rewrites
from sefe_plugin.asd.items import parse_item
from sefe_plugin.asd.pool import AnswerPool
from sefe_plugin.asd.writer.generators import NoReplyError
from sefe_plugin.asd.writer.questions import Chosen, group, needs_model, write_request
from sefe_plugin.asd.writer.templates import Prompts, Task, load_task
from sefe_plugin.data.sample import Sample
from sefe_plugin.files import shipped_folder


SHIPPED = shipped_folder("data_templates") / "asd"
GOLDEN = json.loads(Path(__file__).parents[1].joinpath("golden.json").read_text(encoding="utf-8"))
ENTRIES = json.loads(Path(__file__).parents[1].joinpath("golden_entries.json").read_text(encoding="utf-8"))


def item_of(question, answer, native):
    return parse_item(Sample(question, answer), native)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_entries(name, tmp_path):
    task = load_task(name, SHIPPED)
    Image.new("RGB", (200, 100)).save(tmp_path / "wide.png")
    samples = [Sample(*pair) for pair in GOLDEN[name]["samples"]]
    items = [parse_item(sample, task.native_style) for sample in samples]
    chosen = [Chosen(i, BRIEF, True) for i in range(len(samples))]
    images = (tmp_path / "wide.png",)
    request = write_request(chosen, items, [{}] * len(samples), images, task, Prompts(SHIPPED, task))
    start = request.prompt.index("Entries:\n") + len("Entries:\n")
    entries = json.loads(request.prompt[start : request.prompt.index("\n\nReply with")])
    assert entries == ENTRIES[name]
    assert list(request.entries) == list(request.chosen) == [entry["index"] for entry in entries]
    assert [entry.question for entry in request.entries.values()] == [entry["question"] for entry in entries]


@pytest.mark.parametrize(
    ("native", "question", "answer", "asks"),
    [
        (SHORT_ANSWER, "What is it?", "a cat", {YES_NO, MULTIPLE_CHOICE, *EXPLANATIONS}),
        (SHORT_ANSWER, "Is it a cat?", "yes", set(EXPLANATIONS)),
        (YES_NO, "Is it a cat?", "no", set(EXPLANATIONS)),
        (MULTIPLE_CHOICE, "Which?\nA. one\nB. two", "B", set(EXPLANATIONS)),
        ("box", "The region described by the sentence: cat", "[0.1, 0.2, 0.3, 0.4]", set(EXPLANATIONS)),
        (BRIEF, "What?", "It is a cat.", {YES_NO, MULTIPLE_CHOICE, SHORT_ANSWER, DETAILED}),
    ],
)
def test_a_model_is_asked_only_for_what_is_not_at_hand(native, question, answer, asks):
    item, every = item_of(question, answer, native), frozenset(STYLES)
    others = [style for style in STYLES if style != native]
    assert {style for style in others if needs_model(item, style, False, every, native)} == asks
    assert not any(needs_model(item, style, False, frozenset(), native) for style in others)
    # A claim of the gold answer needs nothing.
    assert not needs_model(item, YES_NO, True, every, native)


def test_samples_of_one_image_and_style_share_a_request():
    rng = random.Random(0)
    images = [(f"{rng.randrange(5)}.png",) if i % 10 else () for i in range(300)]
    chosen = [Chosen(i, rng.choice((YES_NO, BRIEF)), False) for i in range(300)]
    groups = group(chosen, images.__getitem__)
    assert sorted(sample for members in groups for sample in members) == chosen
    for members in groups:
        assert len({(sample.style, images[sample.index]) for sample in members}) == 1
        assert len(members) <= (12 if images[members[0].index] else 1)
    # 30 samples have no image; 270 fall on 10 pairs of image and style, of which each leaves one request unfilled.
    assert len(groups) <= 30 + 270 // 12 + 10
    assert group(chosen, None) == [[sample] for sample in chosen]


def test_boxes_are_shown_as_shares_of_the_image(tmp_path):
    Image.new("RGB", (100, 200)).save(tmp_path / "tall.png")
    item = parse_item(Sample("The region described by the sentence: cat", "[0.5, 0.5, 0.75, 1.0]"), "box")

    def box(boxes, image="tall.png"):
        task = Task(boxes=boxes).resolved("box")
        prompts = Prompts(SHIPPED, task)
        prompt = write_request([Chosen(0, BRIEF, True)], [item], [{}], (tmp_path / image,), task, prompts).prompt
        return json.loads(prompt[prompt.index('"box": ') + 7 : prompt.index("}]")])

    assert box("image") == box("image", "none.png") == [0.5, 0.5, 0.75, 1.0]
    assert box("square") == [0.5, 0.5, 1.0, 1.0]
    assert box("pixels") == [0.01, 0.0, 0.01, 0.01]
    with pytest.raises(NoReplyError, match="image cannot be read"):
        box("square", "none.png")


def test_further_columns_reach_the_prompt_as_data():
    task = Task(columns={"axis": "title", "gone": "none"}).resolved(SHORT_ANSWER)
    item = item_of("What is it?", "a cat", SHORT_ANSWER)
    record = {"title": 'a "b"\n$answer', "other": "x"}
    prompt = write_request([Chosen(0, BRIEF, True)], [item], [record], (), task, Prompts(SHIPPED, task)).prompt
    assert '"axis": "a \\"b\\"\\n$answer"}]' in prompt
    assert '"gone"' not in prompt and '"other"' not in prompt


def test_tasks_of_explanations_leave_three_styles_to_the_model():
    samples = [Sample(f"Describe picture {i}.", f"There is a cat number {i} on a mat.") for i in range(40)]
    pool = AnswerPool(samples, BRIEF)
    made = list(rewrites(40, samples.__getitem__, 1.0, 0, pool))
    assert {rewrite.style for rewrite in made if rewrite.sample is None} == {SHORT_ANSWER, DETAILED}
    assert {rewrite.style for rewrite in made if rewrite.sample is not None} == {YES_NO, MULTIPLE_CHOICE}


@pytest.mark.parametrize("replies", ["json", "plain"])
def test_placeholders_within_a_question_do_not_reach_the_model(replies):
    """The host takes each for one more image."""
    kind = "plain" if replies == "plain" else None
    task = Task(kind=kind, replies=replies).resolved(SHORT_ANSWER)
    item = item_of("<image>\nContext: like <image>\nIs it older than <image>?", "a cat", SHORT_ANSWER)
    request = write_request([Chosen(0, BRIEF, True)], [item], [{}], (), task, Prompts(SHIPPED, task))
    assert "<image>" not in request.prompt + request.entries[1].question
    assert "Is it older than image 3?" in request.prompt
    assert "Is it older than image 3?" in request.entries[1].question

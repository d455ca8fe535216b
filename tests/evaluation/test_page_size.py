"""How long a page of CoIN's size takes: 8 tasks, 2,000 answers each, 36 cells; and how large the pages are."""

import random
import time

import pytest
from left_answers import draw_pictures, leave_answers

from sefe_plugin.cli import main


def write(out, tasks, count, num_pictures, size, ending):
    """Write a run whose tasks have `count` questions each and share some pictures, and its page."""
    names = [f"{place}_{'CoIN' * 2}" for place in range(tasks)]
    pictures = draw_pictures(out.with_name(f"{out.name}_data"), num_pictures, size, ending)
    words = [f"word{number}" for number in range(500)]

    def record(number):
        question = " ".join(random.Random(number).choices(words, k=25))
        return {
            "text": f"<image>\n{question}?",
            "answer": words[number % 500],
            "image": pictures[number % num_pictures],
        }

    records = {name: [record(place * count + number) for number in range(count)] for place, name in enumerate(names)}

    def answers(stage, name):
        draw, golds = random.Random(f"{stage} {name}"), [record["answer"] for record in records[name]]
        other = ["The object in the picture is a thing.", *draw.choices(words, k=3)]
        return [
            gold if draw.random() < 0.9 - 0.08 * (stage - names.index(name)) else draw.choice(other) for gold in golds
        ]

    leave_answers(out, dict.fromkeys(names, "short_answer"), records, answers)
    started = time.monotonic()
    assert main(["report", str(out), "--html"]) == 0
    return out / "report.html", time.monotonic() - started


def test_a_page_of_mini_coins_size_is_small(tmp_path):
    page, _ = write(tmp_path / "run", tasks=8, count=80, num_pictures=640, size=(64, 64), ending="png")
    assert page.stat().st_size < 2_000_000


@pytest.mark.slow
def test_a_page_of_coins_size_is_written_and_opened_soon(tmp_path, browser):
    page, seconds = write(tmp_path / "run", tasks=8, count=2000, num_pictures=2000, size=(640, 480), ending="jpg")
    shown = browser.open(page)
    opened = shown.milliseconds() / 1000
    size = page.stat().st_size / 1e6
    print(f"written in {seconds:.1f} s, {size:.1f} MB, opened in {opened:.2f} s")
    assert shown.faults() == []
    assert seconds < 20
    assert opened < 2
    shown.find("input[value=c]").click()
    assert "of 2000 questions" in shown.texts("#shown")[0]

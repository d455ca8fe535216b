"""How long a page of CoIN's size takes: 8 tasks, 2,000 answers each, 36 cells; and how large the pages are."""

import random
import time

import pytest
from left_answers import draw_pictures, leave_answers

from sefe_plugin.cli import main


#: Pictures that are drawn; the others are the same under other names.
DRAWN = 50


def write(out, tasks, count, size, ending):
    """Write a run whose tasks have `count` questions each, every one with another picture, and its page.

    Returns:
        The page, and the seconds that it took: of a clock, and of this process's work.
    """
    names = [f"{place}_{'CoIN' * 2}" for place in range(tasks)]
    media = out.with_name(f"{out.name}_data")
    drawn = draw_pictures(media, DRAWN, size, ending)
    words = [f"word{number}" for number in range(500)]

    def record(number):
        draw, image = random.Random(number), f"picture_{number}.{ending}"
        (media / image).hardlink_to(media / drawn[number % DRAWN])
        question = " ".join(draw.choices(words, k=25))
        return {"text": f"<image>\n{question}?", "answer": draw.choice(words), "image": image}

    records = {name: [record(place * count + number) for number in range(count)] for place, name in enumerate(names)}

    def answers(stage, name):
        draw, right = random.Random(f"{stage} {name}"), 0.9 - 0.08 * (stage - names.index(name))
        other = ["The object in the picture is a thing.", *draw.choices(words, k=3)]
        return [record["answer"] if draw.random() < right else draw.choice(other) for record in records[name]]

    leave_answers(out, dict.fromkeys(names, "short_answer"), records, answers)
    started, work = time.monotonic(), time.process_time()
    assert main(["report", str(out), "--html"]) == 0
    return out / "report.html", time.monotonic() - started, time.process_time() - work


def test_a_page_of_mini_coins_size_is_small(tmp_path):
    page, _, _ = write(tmp_path / "run", tasks=8, count=80, size=(64, 64), ending="png")
    assert page.stat().st_size < 2_000_000


@pytest.mark.slow
def test_a_page_of_coins_size_is_written_and_opened_soon(tmp_path, browser):
    page, seconds, work = write(tmp_path / "run", tasks=8, count=2000, size=(640, 480), ending="jpg")
    opened = min(browser.open(page).milliseconds() for _ in range(3)) / 1000
    size = page.stat().st_size / 1e6
    print(f"written in {seconds:.1f} s, {work:.1f} s of work; {size:.1f} MB; opened in {opened:.2f} s")
    assert browser.faults() == []
    assert work < 20
    assert opened < 2
    browser.find("input[value=c]").click()
    assert "of 2000 questions" in browser.texts("#shown")[0]

"""The page of a run in a real browser: what it shows, what it runs, and how it is used without a mouse."""

import time

import pytest
from left_answers import draw_pictures, leave_answers
from PIL import Image

from sefe_plugin.cli import main


TASKS = {"Short": "short_answer", "Letters": "multiple_choice", "YesNo": "yes_no"}

#: What a model may write; none of it may run, load or hide anything.
HOSTILE = (
    "<script>window.ran = 1</script>",
    "</script><script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 1'>",
    "<!-- <script>",
    "a\u2028window.ran = 1//\u2029b",
    "<a href='javascript:window.ran = 1'>a</a><style>*{display:none}</style>",
    "'\"><svg onload=window.ran=1>",
    "\u202e backwards \U0001f600",
)


def short_answers(stage):
    """Twelve answers; on the way each becomes something else."""
    return {
        0: ["red"] * 8 + ["blue"] * 4,
        1: ["red"] * 4 + ["blue"] * 3 + ["The colour is red."] + ["red"] * 2 + ["blue"] * 2,
        2: [*HOSTILE, "red", "green", "", "red"],
    }[stage]


def answers(stage, name):
    if name == "Short":
        return short_answers(stage)
    return {"Letters": ["B"] * 5 if stage == 1 else ["B", "C", "leaves", "B", "D"], "YesNo": ["Yes", "no"]}[name]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "run"
    draw_pictures(out.with_name("run_data"), 11)  # the last one is missing
    records = {
        "Short": [
            {"text": HOSTILE[i % 8] if i < 3 else f"colour {i}?", "answer": "red", "image": f"{i}.png"}
            for i in range(12)
        ],
        "Letters": [{"text": "which?", "answer": "B"}] * 5,
        "YesNo": [{"text": "is it?", "answer": "Yes"}, {"text": "and this?", "answer": "No"}],
    }
    leave_answers(out, TASKS, records, answers)
    assert main(["report", str(out), "--html"]) == 0
    return out / "report.html"


def choose(page, set_name, stage, kind="all"):
    page.run(
        """
        const pick = (id, words) => {
          const box = document.getElementById(id);
          box.value = [...box.options].find((option) => option.textContent.startsWith(words)).value;
          box.dispatchEvent(new Event("change"));
        };
        pick("set", arguments[0]);
        pick("stage", arguments[1]);
        document.querySelector(`input[value="${arguments[2]}"]`).click();
        """,
        set_name,
        stage,
        kind,
    )


def column(page, head):
    """What the answers of a column say, without the judgement below them."""
    script = """return [...document.querySelectorAll(".answers tbody td")]
        .filter((cell) => cell.dataset.head === arguments[0])
        .map((cell) => (cell.querySelector(".text") ?? cell.querySelector(".note")).textContent)"""
    return page.run(script, head)


def test_it_opens_from_the_disk_and_asks_for_nothing_else(browser, file):
    page = browser.open(file)
    assert page.faults() == []
    assert page.texts("h2") == [
        *("Metrics", "Accuracy and format", "Along the sequence", "What was forgotten", "Answers"),
        *("Time and memory", "Recipe"),
    ]
    assert page.texts("h1") == [str(file.parent)]


def test_a_page_that_asks_for_something_else_would_be_seen(browser, file, tmp_path):
    """The test above can fail: without its policy a page that loads a file and breaks is told."""
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://127.0.0.1:9/x.png'><img src='other.png'><script>nothing.at.all()</script>")
    faults = "\n".join(browser.open(bad).faults())
    assert "requested http://127.0.0.1:9/x.png" in faults
    assert "other.png" in faults
    assert "ReferenceError" in faults


def test_the_policy_stops_what_html_would_run_and_load(browser, file):
    page = browser.open(file)
    page.run(
        """
        const script = document.createElement("script");
        script.textContent = "window.ran = 1";
        document.body.append(script);
        const picture = document.createElement("img");
        picture.src = "http://127.0.0.1:9/x.png";
        document.body.append(picture);
        """
    )
    assert page.run("return window.ran") is None
    assert any("Content Security Policy" in fault for fault in page.faults())


def is_right(name, answer):
    return answer.strip(" .").lower() == {"Short": "red", "Letters": "b"}[name]


def in_format(name, answer):
    """The format of these answers alone, told in another way than the scorers do."""
    return answer in {"Short": ("red", "blue", "green"), "Letters": ("A", "B", "C", "D")}[name]


@pytest.mark.parametrize(
    ("name", "learned", "stage"), [("Short", 0, 1), ("Short", 0, 2), ("Letters", 1, 2), ("Short", 0, 0)]
)
def test_filters_keep_what_an_independent_count_finds(browser, file, name, learned, stage):
    page = browser.open(file)
    then, now = answers(learned, name), answers(stage, name)
    pairs = list(zip(then, now, strict=True))
    lost = [b for a, b in pairs if is_right(name, a) and not is_right(name, b)]
    known = [*(b for b in now if b not in HOSTILE)]
    expected = {
        "all": now,
        "f": [b for b in lost if not in_format(name, b)],
        "c": [b for b in lost if in_format(name, b)],
        "r": [b for a, b in pairs if not is_right(name, a) and is_right(name, b)],
        "wrong": [b for b in now if not is_right(name, b)],
    }
    assert known or stage == 2
    for kind, kept in expected.items():
        if (name, stage) == ("Short", 2) and kind in ("f", "c"):
            continue  # whether these texts have a format is for the scorer to say, see the next test
        choose(page, name, f"after {[*TASKS][stage]}", kind)
        shown = column(page, f"after {[*TASKS][stage]}") if kept else []
        assert shown == [text or "(empty)" for text in kept], kind
        assert page.run(f"return document.querySelector('input[value={kind}]').parentElement.innerText").endswith(
            f"({len(kept)})"
        )
        assert page.texts("#shown")[0].startswith(f"{name}, after {[*TASKS][stage]}")


def test_hostile_answers_are_shown_as_text_and_run_nothing(browser, file):
    page = browser.open(file)
    choose(page, "Short", "after YesNo")
    assert column(page, "after YesNo")[:8] == [*HOSTILE]
    assert [text.removeprefix("number") for text in page.texts(".answers td:nth-child(2) .text")[:1]] == [HOSTILE[0]]
    assert page.run("return window.ran") is None
    assert page.run("return document.querySelectorAll('script').length") == 2
    assert page.run("return document.querySelectorAll('#answers a, #answers style, #answers svg').length") == 0
    assert page.faults() == []
    # both kinds of loss together are all that was right and is wrong now
    counts = [page.texts(f"label:has(input[value={kind}])")[0] for kind in "fc"]
    assert sum(int(count.split("(")[1].rstrip(")")) for count in counts) == 8


def test_pictures_stand_beside_questions_and_missing_ones_are_told(browser, file):
    page = browser.open(file)
    choose(page, "Short", "after Letters")
    sizes = page.run("return [...document.querySelectorAll('.answers img')].map((image) => image.naturalWidth)")
    assert sizes == [64] * 11
    (note,) = page.texts(".answers td:nth-child(1) .note")
    assert note.startswith("11.png cannot be shown: ")


def test_texts_alone_have_no_column_of_pictures(browser, file):
    page = browser.open(file)
    choose(page, "Letters", "after YesNo")
    heads = ["question", "right answer", "just learned (after Letters)", "after YesNo"]
    assert page.texts(".answers thead th") == heads
    choose(page, "Short", "after Short")  # the last of its pictures is missing
    assert page.texts(".answers thead th") == ["picture", "question", "right answer", "after Short"]
    assert page.run("return document.querySelector('.answers td').offsetWidth") == 150


def test_the_arrow_keys_choose_a_cell_and_enter_shows_its_answers(browser, file):
    page = browser.open(file)
    page.run("document.querySelector('nav li:last-child a').focus()")
    page.press("TAB")
    assert page.focused("aria-label") == "after Short, scored on Short: 66.67 %"
    page.press("ARROW_DOWN", "ARROW_DOWN")
    assert page.focused("aria-label").startswith("after YesNo, scored on Short: ")
    told = page.texts("#matrices .detail")[0]
    assert "\u00b1" in told
    assert "(standard error), right format " in told
    assert "Just learned: 66.67 %." in told
    page.press("ARROW_RIGHT", "ARROW_UP", "END")
    assert page.focused("aria-label") == "after Letters, scored on YesNo: not scored"
    page.press("HOME", "ARROW_LEFT", "ARROW_UP", "ARROW_UP", "ARROW_UP")  # at the border nothing moves
    assert page.focused("aria-label").startswith("after Short, scored on Short")
    # one cell of each map is in the order of Tab, so that Tab leads on
    page.press("TAB")
    assert page.focused("aria-label") == "after Short, scored on Short: 100.00 %"
    page.press("ARROW_DOWN", "ENTER")
    assert page.focused("id") == "set"
    assert page.texts("#shown")[0].startswith("Short, after Letters, all: 12 of 12 answers")
    outline = page.run("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"


def test_filters_are_chosen_with_the_keyboard(browser, file):
    page = browser.open(file)
    choose(page, "Short", "after Letters")
    page.run("document.querySelector('input[value=all]').focus()")
    page.press("ARROW_RIGHT", "ARROW_RIGHT")
    assert page.focused("value") == "c"
    assert column(page, "after Letters") == ["blue"] * 3


def test_numbers_are_rounded_as_in_the_texts(browser, file):
    """Numbers in the middle of two, as shares of 8, 16 and 32 questions are, and others that only look so."""
    values = [sign * part / size for size in (32, 200, 400, 1000) for part in range(3000) for sign in (1, -1)]
    pairs = [[value, digits] for value in values for digits in (0, 1, 2)]
    shown = browser.open(file).run("return arguments[0].map(([value, digits]) => number(value, digits))", pairs)
    expected = [f"{round(value, digits) + 0.0:.{digits}f}" for value, digits in pairs]
    assert [x for x in zip(pairs, shown, expected, strict=True) if x[1] != x[2]] == []
    assert browser.open(file).run("return [number(40.625), number(3.125), number(6.25, 1), number(-0.001)]") == [
        *("40.62", "3.12", "6.2", "0.00")
    ]


def test_every_filter_has_a_line_that_says_what_it_means(browser, file):
    page = browser.open(file)
    choose(page, "Short", "after YesNo")
    filters = [text.split(" (")[0].strip() for text in page.texts("#filters label")]
    assert ["all", *page.texts("#meanings li strong")] == filters
    lines = page.texts("#meanings li")
    assert lines[1] == "lost content: right then; wrong now, in the form that the task asks for."
    assert page.texts("#meanings p")[0].startswith("Then is when the task was just learned. An answer can")
    assert page.texts("#meanings p")[0].endswith("wrong one that is not wholly right.")


def test_a_negative_loss_is_told_to_be_a_gain(browser, file):
    page = browser.open(file)
    script = """
        const loss = { drop: arguments[0], superficial: 0, essential: arguments[0] };
        const table = lossTable("task", ["A", "B"], [loss, null]);
        return [[...table.querySelectorAll("li")].map((line) => line.textContent).at(-1),
                table.querySelector(".bar").getAttribute("aria-label")]"""
    assert page.run(script, -6.5) == ["negative: gained", "superficial 0.0, essential -6.5 points"]
    for loss in (6.5, 0, -0.001):  # the last one is shown as 0.00
        assert page.run(script, loss)[0] == "essential: the content is lost"


def test_tables_have_heads_and_names(browser, file):
    page = browser.open(file)
    unnamed = """
        const name = (e) => e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.closest("label");
        const named = "select, input, svg[role=img], table[role], section, .bar";
        return [...document.querySelectorAll(named)].filter((e) => !name(e)).length"""
    assert page.run(unnamed) == 0
    assert page.run("return document.querySelectorAll('table').length >= 6")
    headless = "return [...document.querySelectorAll('table')].filter((e) => !e.querySelector('th[scope=col]')).length"
    assert page.run(headless) == 0
    assert page.run("return document.documentElement.lang") == "en"


@pytest.mark.parametrize(
    ("width", "dark"), [(1280, False), (390, False), (1280, True)], ids=["desktop", "phone", "dark"]
)
def test_it_fits_its_window_and_is_not_blank(browser, file, tmp_path, width, dark):
    page = browser.open(file, width=width, height=844, dark=dark)
    assert page.overflow() <= 0
    page.screenshot(tmp_path / "shot.png")
    with Image.open(tmp_path / "shot.png") as shot:
        assert width - 20 <= shot.width <= width
        assert shot.height > 1500
        colours = shot.convert("RGB").getcolors(1 << 24)
    assert len(colours) > 200
    paper = max(colours)[1]
    assert (sum(paper) < 120) == dark


def test_a_phone_shows_the_whole_chart_of_few_tasks(browser, file):
    page = browser.open(file)
    hidden = "const frame = document.querySelector('#curves .scroll'); return frame.scrollWidth - frame.clientWidth"
    letters = "return parseInt(12 * document.querySelector('.chart').getScreenCTM().a)"
    assert page.run("return document.querySelector('.chart').viewBox.baseVal.width") == 680
    page.resize(390, 844)
    time.sleep(0.2)
    assert (page.run(hidden), page.run(letters)) == (0, 12)  # letters of 12 pixels are no smaller than that
    many = "return [...arguments[0]].map((count) => chart({label: '', ticks: Array(count).fill('t'), lines: []})"
    widths = page.run(f"{many}.querySelector('svg').style.minWidth)", [2, 6, 8, 20])
    assert widths == ["", "", "", "734px"]
    page.resize(1280, 844)
    time.sleep(0.2)
    assert page.run("return document.querySelector('.chart').viewBox.baseVal.width") == 680


@pytest.mark.parametrize("width", [390, 320])
def test_no_line_ends_between_a_sign_of_a_legend_and_its_words(browser, file, width):
    page = browser.open(file, width=width, height=844)
    script = """
        return [...document.querySelectorAll(".key, .sample")].map((sign) => {
          const words = document.createRange();
          words.selectNode(sign.nextSibling);
          const [one, other] = [sign.getBoundingClientRect(), words.getClientRects()[0]];
          return one.right <= other.left && one.top < other.bottom && other.top < one.bottom;
        })"""
    assert page.run(script) == [True] * 5  # three tasks, two kinds of loss


def test_numbers_on_colours_can_be_read(browser, file):
    """Contrast of the numbers in the maps and of plain text, by WCAG 2's formula: at least 4.5 to 1."""
    script = """
        const light = (colour) => {
          const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
          const [r, g, b] = parts.map((p) => (p <= 0.03928 ? p / 12.92 : ((p + 0.055) / 1.055) ** 2.4));
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const contrast = (one, two) => {
          const [low, high] = [light(one), light(two)].sort((a, b) => a - b);
          return (high + 0.05) / (low + 0.05);
        };
        const cell = document.createElement("td");
        return Array.from({ length: 101 }, (_, value) => {
          shade(cell, value);
          return contrast(cell.style.color === "rgb(0, 0, 0)" ? cell.style.color : "rgb(255, 255, 255)",
                          cell.style.backgroundColor);
        }).concat([...document.querySelectorAll("p.note, caption, .wrong, a")].map((e) =>
          contrast(getComputedStyle(e).color, getComputedStyle(document.body).backgroundColor)));
    """
    for dark in (False, True):
        assert min(browser.open(file, dark=dark).run(script)) >= 4.5


def test_runs_stand_side_by_side(browser, file, tmp_path):
    out = tmp_path / "second"
    draw_pictures(tmp_path / "second_data", 1)
    records = {name: [] for name in TASKS}
    records["Letters"] = [{"text": "which?", "answer": "B"}] * 5
    records["Short"] = [{"text": "another question", "answer": "red"}]
    records["YesNo"] = [{"text": "is it?", "answer": "Yes"}, {"text": "and this?", "answer": "No"}]
    given = {"Letters": ["B", "B", "B", "C", "D"], "Short": ["red"], "YesNo": ["Yes", "Yes"]}
    leave_answers(out, TASKS, records, lambda stage, name: given[name])
    both = tmp_path / "both.html"
    assert main(["report", str(file.parent), str(out), "--html", str(both)]) == 0
    page = browser.open(both)
    assert page.faults() == []
    choose(page, "Letters", "after YesNo", "b0")
    assert tuple(column(page, str(run)) for run in (file.parent, out)) == (["C", "leaves"], ["B", "B"])
    choose(page, "Letters", "after YesNo", "w0")
    assert tuple(column(page, str(run)) for run in (file.parent, out)) == (["B"], ["C"])
    assert page.texts("#meanings strong") == ["better", "worse"]
    rows = [text.split("\t") for text in page.texts("#answers .plain tbody tr")]
    assert ["Letters", "after YesNo", str(out), "2", "1", "2", "5"] in rows
    assert any("did not answer the same questions" in note for note in page.texts("#answers > div > .note"))
    for width in (1280, 390):
        page.resize(width, 844)
        time.sleep(0.2)
        assert page.overflow() <= 0

import pytest

from sefe_plugin.answers.styles import FORMAT_LINES, SHORT_ANSWER, STYLES
from sefe_plugin.answers.texts import (
    answer_key,
    answer_kind,
    content_key,
    content_words,
    count_words,
    has_placeholder,
    in_words,
    option_letter,
    placeholders,
    split_question,
)


LINE = FORMAT_LINES[SHORT_ANSWER]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("head", ["", "<image>\n", "<image>", "<image>\n<image>\n", "<video>\n"])
@pytest.mark.parametrize("joint", ["\n", " ", "\r\n"])
def test_head_question_and_line_are_told_apart(head, style, joint):
    line = FORMAT_LINES[style]
    assert split_question(f"{head}What is it?{joint}{line}") == (head, "What is it?", style)
    assert split_question(f"{head}What is it?{joint}{line}\n{line}\n") == (head, "What is it?", style)


def test_a_question_without_a_line_has_no_style():
    assert split_question("Is it red?\nAnswer me.") == ("", "Is it red?\nAnswer me.", None)


def test_a_placeholder_at_the_end_moves_to_the_front():
    text = f"What is it?\n{FORMAT_LINES[SHORT_ANSWER]}\n<image>"
    assert split_question(text) == ("<image>\n", "What is it?", SHORT_ANSWER)


@pytest.mark.parametrize(
    ("text", "head"),
    [
        (f"What is it?\n<image>\n{LINE}", "<image>\n"),
        (f"What is it? <image> {LINE} <image>", "<image>\n<image>\n"),
        (f"<image>\nWhat is it?\n<video>\n<audio>\n{LINE}\n{LINE}", "<video>\n<audio>\n<image>\n"),
    ],
)
def test_placeholders_around_the_line_move_to_the_front(text, head):
    assert split_question(text) == (head, "What is it?", SHORT_ANSWER)


def test_a_placeholder_within_the_question_stays():
    assert split_question("Compare <image> with this.")[:2] == ("", "Compare <image> with this.")


@pytest.mark.parametrize(
    ("text", "head", "stem"),
    [
        (f"Is <image> older than this?\n<image>\n{LINE}", "", "Is <image> older than this?\n<image>"),
        (f"Is <image> older than <image>\n{LINE}", "", "Is <image> older than <image>"),
        (f"<image>\nIs <image> older?\n{LINE}\n<image>", "<image>\n", "Is <image> older?\n<image>"),
    ],
)
def test_a_placeholder_at_the_end_stays_behind_those_within_the_question(text, head, stem):
    assert split_question(text) == (head, stem, SHORT_ANSWER)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("joint", ["\n", "  \n ", " ", ""])
def test_lines_are_known_in_any_case_and_without_their_period(style, joint):
    line = FORMAT_LINES[style]
    for spelling in (line.lower(), line.upper(), line.removesuffix("."), line.lower().removesuffix(".")):
        assert split_question(f"What is it?{joint}{spelling}") == ("", "What is it?", style)


def test_a_line_within_a_sentence_belongs_to_the_question():
    text = "Look at the picture and answer the question with yes or no."
    assert split_question(text) == ("", text, None)


def test_placeholders_are_numbered_in_words():
    text = "<video>\nIs <image> older than <image>?\n <image> <video> \nSay <video>."
    assert in_words(text, before="<image>\n") == "Is image 2 older than image 3?\nSay video 3."
    assert in_words("a < b\n\n") == "a < b\n\n"
    assert has_placeholder(text) and not has_placeholder("a <picture> < b")
    assert placeholders(text) == "<video>\n<image>\n<image>\n<image>\n<video>\n<video>\n"


@pytest.mark.parametrize(
    "answer", ["B", "B.", "(B)", "B. two", "B: two", " B\n", "(B) two", "B) two", "(B). two", "(B):", "B)"]
)
def test_letters_are_read(answer):
    assert option_letter(answer) == "B"


@pytest.mark.parametrize("answer", ["", "b", "Bob", "B two", "AB", "the answer is B", "(B)two", "B.two"])
def test_other_answers_have_no_letter(answer):
    assert option_letter(answer) is None


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        *[(answer, "yes_no") for answer in ("yes", "No.", " YES ")],
        *[(answer, "number") for answer in ("3", "12:30", "$5.99", "50%", "1,000", "-2")],
        *[(answer, "words") for answer in ("two dogs", "2 dogs", "")],
        ("[0.1, 0.2, 0.3, 0.4]", "box"),
    ],
)
def test_kinds(answer, kind):
    assert answer_kind(answer) == kind


@pytest.mark.parametrize(
    ("answer", "key"),
    [(" Red. ", "red"), ("RED .", "red"), ("red..", "red."), (".", ""), ("红色。", "红色"), ("أحمر\u06d4", "أحمر")],
)
def test_one_final_period_does_not_matter(answer, key):
    assert answer_key(answer) == key


def test_content_is_compared_whatever_its_spelling():
    groups = (["2", "two", "Two.", "the two"], ["a dog", "Dog", "dog."], ["a", "A."], ["+"], ["-"], ["3"], ["dogs"])
    keys = [{content_key(text) for text in group} for group in groups]
    assert [len(found) for found in keys] == [1] * len(groups)
    assert len(set().union(*keys)) == len(groups)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("- two dogs.", 3),
        ("Straße über Köln", 3),
        ("한 마리 개", 3),
        ("红色", 1),
        ("红色。", 1),
        ("两只黄色的小狗。", 4),
        ("赤い車が2台、駐車場にあります", 8),
        ("สุนัขสองตัว", 3),
        ("一个 red 的 car。", 4),
    ],
)
def test_words_are_counted_in_every_script(text, words):
    assert count_words(text) == words


@pytest.mark.parametrize(
    ("caption", "short"),
    [
        ("一位穿着红色外套的老人坐在公园的长椅上,旁边有一只黄色的小狗。", "黄色的小狗"),
        ("赤いコートを着た老人が公園のベンチに座っています。", "黄色い犬"),
        ("ชายชราสวมเสื้อโค้ทสีแดงนั่งอยู่บนม้านั่งในสวนสาธารณะข้างๆมีสุนัข", "สุนัขสีเหลือง"),
        ("ຊາຍເຖົ້າໃສ່ເສື້ອສີແດງນັ່ງຢູ່ເທິງຕັ່ງໃນສວນສາທາລະນະ", "ໝາສີເຫຼືອງ"),
        ("បុរសចំណាស់ម្នាក់ពាក់អាវពណ៌ក្រហមអង្គុយលើកៅអីក្នុងសួន", "ឆ្កែពណ៌លឿង"),
        ("အနီရောင်ကုတ်အင်္ကျီဝတ်ထားသောအဘိုးအိုတစ်ဦးသည်ပန်းခြံထဲတွင်ထိုင်နေသည်", "ခွေးအဝါ"),
    ],
)
def test_a_caption_is_long_and_an_answer_short_without_blanks_too(caption, short):
    assert count_words(caption) > 8 and 1 <= count_words(short) <= 4


def test_a_part_of_a_text_without_blanks_is_a_part():
    assert content_words("白色") < content_words("黑色和白色") == content_words("白色和黑色")
    assert not content_words("红色") & content_words("蓝") and content_key("红色。") == content_key("红色")
    assert content_key("\uff12") == content_key("2") and content_key("cafe\u0301") == content_key("café")

"""Scorers of answers without an answer style: numbers, words, names, captions; options, and other packages."""

import json
import pickle
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from types import SimpleNamespace

import pytest

from sefe_plugin.evaluation.scorers import (
    SCORERS,
    RecordScorer,
    Score,
    judge_predictions,
    plain_spec,
    read_spec,
    registry,
    score_predictions,
    scorer_of,
    settled_spec,
    spec_faults,
    spec_text,
)
from sefe_plugin.evaluation.scorers.judge import judge_request, parse_rating


STATES = "Which states have the lowest value?\nBe succinct."
#: Scorer, answer, gold answer, strict score, whether it has the format (None: not told), lenient score.
CASES = [
    *[("number", text, "3", 1, True, 1) for text in ("3", "three", "3.0", "3 dogs", "**3**")],
    *[
        ("number", "4", "3", 0, True, 0),
        ("number", "There are three.", "3", 0, False, 1),
        ("number", "", "3", 0, False, 0),
    ],
    *[
        ("number", "1,200", "$1,200", 1, True, 1),
        ("number", "5 m", "5 kg", 0, True, 0),
        ("number", "6", ["5", 6], 1, True, 1),
    ],
    *[
        ({"name": "number", "tolerance": 0.05}, text, "100", score, True, score)
        for text, score in (("104", 1), ("106", 0))
    ],
    *[({"name": "number", "tolerance": 0.05}, text, "100", 0, False, 1) for text in ("It is about 104.",)],
    *[
        ({"name": "number", "absolute_tolerance": 2}, text, "0", score, True, score)
        for text, score in (("2", 1), ("3", 0))
    ],
    ({"name": "number", "units": "required"}, "5", "5 kg", 0, True, 0),
    ({"name": "number", "units": "ignored"}, "5 m", "5 kg", 1, True, 1),
    *[("names", text, "Iowa, Ohio", 1, True, None) for text in ("ohio,iowa", "Iowa and Ohio.", " ohio , iowa ")],
    *[
        ("names", "Iowa", "Iowa, Ohio", 0.5, True, None),
        ("names", "Iowa, Ohio, Utah", "Iowa, Ohio", 2 / 3, True, None),
    ],
    *[("names", "", "Iowa", 0, False, None), ("names", "It lies in the state of Iowa", "Iowa", 0, False, None)],
    *[("exact_match", "Red", "red", 0, None, 1), ("exact_match", " red ", ["blue", "red"], 1, None, 1)],
    ({"name": "exact_match", "ignore_case": True}, "Red", "red", 1, None, 1),
    ({"name": "exact_match", "ignore_punctuation": True}, "red!", "red", 1, None, 1),
    ({"name": "exact_match", "ignore_numbers": True}, "red 1", "red 2", 1, None, 1),
    ({"name": "exact_match", "ignore_numbers": True}, "The car is red 1.", "red 2", 0, None, 1),
    ("exact_match", "The car is red 1.", "red 2", 0, None, 0),
    ({"name": "exact_match", "ignore_articles": True}, "The red car", "a red car", 1, None, 1),
    ({"name": "exact_match", "ignore_articles": True, "ignore_case": True}, "The Red car", "a red car", 1, None, 1),
    *[
        ("contains", text, "no", score, None, None)
        for text, score in (("No, there is", 1), ("piano bar", 0), ("notable", 0))
    ],
    *[("contains", text, "no", 0, None, None) for text in ("not seen", "unknown areas", "Yes, no doubt", "")],
    *[("contains", text, "no", 0, None, None) for text in ("There is no doubt that it rose.", "No doubt it rose")],
    ("contains", "Not yes", "yes", 0, None, None),
    *[("contains", "110 m2", "10", 0, None, None), ("contains", "10", "1", 0, None, None)],
    *[("contains", "Going ahead", "Going ahead.", 1, None, None), ("contains", "the liver", ["liver"], 1, None, None)],
    *[
        ("contains", "It is going ahead.", "Going ahead.", 1, None, None),
        ("contains", "hepatic", "liver", 0, None, None),
    ],
    *[("contains", "in $1,200", "$1,200", 1, None, None), ("contains", "Yes.", "yes", 1, None, None)],
    ({"name": "regex", "pattern": "answer is (\\w+)"}, "The ANSWER is Red.", "red", 1, True, None),
    ({"name": "regex", "pattern": "answer is (\\w+)"}, "The answer is blue", "red", 0, True, None),
    ({"name": "regex", "pattern": "answer is (\\w+)"}, "red", "red", 0, False, None),
    ({"name": "regex", "pattern": "\\d+"}, "It is 12.", ["12"], 1, True, None),
    ({"name": "regex", "pattern": "(\\w+)$", "ignore_case": False}, "Red", "red", 0, True, None),
    *[("f1", "the red car", "A car", 2 / 3, None, None), ("f1", "blue", ["red", "Blue!"], 1, None, None)],
    *[("f1", "", "car", 0, None, None), ("f1", "a a red", "red", 1, None, None)],
    *[("anls", "car", "cat", 2 / 3, None, None), ("anls", "Cat", ["dog", "cat"], 1, None, None)],
    *[
        ("anls", "", "cat", 0, None, None),
        ("anls", "2019", "2018", 0.75, None, None),
        ("anls", "no", "yes", 0, None, None),
    ],
    *[("anls", "ab", "axyz", 0, None, None), ({"name": "anls", "threshold": 0}, "ab", "axyz", 0.25, None, None)],
    *[("rouge_l", "a dog runs", "A dog runs.", 1, None, None), ("rouge_l", "", "A dog.", 0, None, None)],
    *[("rouge_l", "a cat", ["a dog", "a cat"], 1, None, None)],
    # one scorer for several kinds of gold answers
    *[("mixed", text, "B", 1, True, 1) for text in ("B", "b", "B.", "(B)", "B)", "B) 2", "B. Leaves")],
    *[("mixed", text, "B", 0, False, 1) for text in ("The answer is B.", "**B**")],
    *[("mixed", "A", "B", 0, True, 0), ("mixed", "1", "B", 0, False, 0), ("mixed", "", "B", 0, False, 0)],
    *[("mixed", text, "No", score, True, score) for text, score in (("no", 1), ("No.", 1), ("Yes", 0))],
    *[("mixed", "No, it fell.", "No", 0, False, 1), ("mixed", "N o.", "No", 0, False, 0)],
    *[
        ("mixed", "three", "3", 1, True, 1),
        ("mixed", "0. no", "0", 0, False, 0),
        ("mixed", "1. yes", "0", 0, False, 0),
    ],
    *[
        ("mixed", text, gold, 0, formatted, 0)
        for text, gold, formatted in (
            ("1.5", "1", True),
            ("3.14", "3", True),
            ("10.4%", "10", True),
            ("2.5 million", "2", True),
            ("12:30", "12", False),
            ("3)7", "3", False),
        )
    ],
    *[("mixed", text, "Iowa, Ohio", score, True, score) for text, score in (("ohio,iowa", 1), ("Iowa", 0.5))],
    *[("mixed", "in $1,200", "$1,200", 1, True, 1), ("mixed", "a red car", "red", 1, True, 1)],
    *[("mixed", "reddish", "red", 0, True, 0)],
]


@pytest.mark.parametrize(("spec", "prediction", "gold", "correct", "formatted", "lenient"), CASES)
def test_each_scorer(spec, prediction, gold, correct, formatted, lenient):
    record = {"answer": gold}
    scorer_of(spec).check(record)
    score = score_predictions(spec, [prediction], [record])
    assert score.accuracy == pytest.approx(100 * correct)
    assert score.format == (None if formatted is None else 100 * formatted)
    assert score.lenient == (None if lenient is None else pytest.approx(100 * lenient))
    assert judge_predictions(spec, [prediction], [record])[0].correct == pytest.approx(correct)


def test_a_numbered_option_is_chosen_where_the_question_has_it():
    record = {"answer": "0", "text": "Is it round?\n0. no\n1. yes\n2. 5"}
    answers = ["0. no", "1. yes", "0. yes", "0.5", "3. no"]
    judged = judge_predictions("mixed", answers, [record] * 5)
    assert [one.correct for one in judged] == [1, 0, 0, 0, 0]
    assert [one.formatted for one in judged] == [True, True, False, True, False]
    two = {**record, "answer": "2"}
    assert [one.correct for one in judge_predictions("mixed", ["2. 5", "2.5"], [two] * 2)] == [1, 0]


def test_states_are_names_even_where_one_is_right():
    record = {"answer": "Iowa", "text": STATES}
    assert score_predictions("mixed", ["Iowa, Ohio"], [record]).accuracy == 50


@pytest.mark.parametrize(
    ("scorer", "prediction", "record", "lenient"),
    [
        ("multiple_choice", "The answer is (b).", {"answer": "B"}, 100),
        ("multiple_choice", "a dog", {"answer": "B", "text": "Which?\nA. a cat\nB. a dog"}, 100),
        ("multiple_choice", "a cat", {"answer": "B", "choices": ["a cat", "a dog"]}, 0),
        ("short_answer", "The car is **red**.", {"answer": "red"}, 100),
        ("short_answer", "It is not red.", {"answer": "red"}, 0),
        ("class_name", "The fish is a great white shark.", {"answer": "great_white-shark"}, 100),
        ("yes_no", "Yes, it is.", {"answer": "yes"}, 100),
        ("explanation", "It is round.", {"answer": "It rolls because it is round.", "key": "it is round"}, 100),
        ("explanation", "Round.", {"answer": "It rolls because it is round."}, 0),
        ("text_vqa", "It says stop.", {"answers": ["stop"] * 3 + ["go"] * 7}, 90),
        ("box", '{"bbox_2d": [0.1, 0.1, 0.5, 0.5]}', {"answer_bbox": "[0.1, 0.1, 0.5, 0.5]"}, 100),
    ],
)
def test_a_lost_format_is_wrong_and_what_it_says_counts_for_a_reader(scorer, prediction, record, lenient):
    score = score_predictions(scorer, [prediction], [record])
    assert (score.accuracy, score.format) == (0, 0)
    assert score.lenient == pytest.approx(lenient)


@pytest.mark.parametrize(
    ("options", "prediction", "right"),
    [
        ({"box_scale": "thousandth"}, "[100, 200, 500, 1000]", True),
        ({"box_scale": "percent"}, "[10, 20, 50, 100]", True),
        ({"box_scale": "pixel"}, "[20, 20, 100, 100]", True),
        ({"box_scale": "pixel", "gold_scale": "share"}, "[100, 200, 500, 1000]", False),
        ({}, "[100, 200, 500, 1000]", False),
        ({"iou": 0.9}, "[0.1, 0.2, 0.5, 0.8]", False),
    ],
)
def test_boxes_in_a_declared_unit(options, prediction, right):
    record = {"answer_bbox": "[0.1, 0.2, 0.5, 1.0]", "size": [200, 100]}
    score = score_predictions({"name": "box", **options}, [prediction], [record])
    assert (score.accuracy, score.format) == (100 * right, 100)


def test_pixels_need_the_size_of_the_image():
    scorer = scorer_of({"name": "box", "box_scale": "pixel"})
    for size in (None, [200], [0, 100], "200x100"):
        with pytest.raises(ValueError, match="needs width and height in pixels as 'size'"):
            scorer.check({"answer_bbox": "[0.1, 0.2, 0.5, 1.0]", "size": size})


def test_captions_have_six_parts_and_may_exceed_100():
    golds = [["a dog runs on the grass"], ["two people sit on a bench"], ["a can of soda on a table"]]
    records = [{"captions": texts} for texts in golds]
    score = score_predictions("caption", [texts[0] for texts in golds], records)
    assert [*score.parts] == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"]
    assert score.accuracy == pytest.approx(sum(score.parts.values()) / 6)
    assert score.accuracy > 100
    assert (score.format, score.stderr, score.lenient, score.count) == (None, None, None, 3)
    assert judge_predictions("caption", ["a"] * 3, records) is None
    with pytest.raises(ValueError, match="scorer 'caption', test record 1: needs a caption"):
        score_predictions("caption", ["a", "b"], [records[0], {"captions": []}])


@pytest.mark.parametrize(
    "scorer", [name for name in SCORERS if name not in ("none", "judge", "regex", "box", "caption")]
)
def test_a_gold_answer_that_no_answer_can_match_is_refused(scorer):
    for gold in ("", " ", None, [], {"a": 1}, True):
        with pytest.raises(ValueError, match=r"needs|must be"):
            SCORERS[scorer].check({"answer": gold})


@pytest.mark.parametrize(
    ("spec", "faults"),
    [
        (
            "bleu",
            ["`scorer` must be one of multiple_choice, .*judge, or none for answers without scores; got 'bleu'."],
        ),
        ("numbr", ["got 'numbr'. Did you mean `number`?"]),
        (3, ["or a mapping of its `name` and its options, such as .*; got 3."]),
        ({"tolerance": 1}, ["or a mapping of its `name`"]),
        ({"name": "number", "tolerence": 1}, ["`tolerence` is no option of it; .*Did you mean `tolerance`?"]),
        ({"name": "yes_no", "tolerance": 1}, ["`scorer: yes_no`: `tolerance` is no option of it; it has no options."]),
        (
            {"name": "number", "tolerance": 2, "units": "some", "unit": "kg"},
            ["`unit` is no option", "`tolerance` must be a share in .0, 1.; got 2.", "`units` must be one of"],
        ),
        ({"name": "regex"}, ["`scorer: regex`: `pattern` is required: a regular expression"]),
        ({"name": "regex", "pattern": "("}, ["`pattern` must be a regular expression of Python's.*; got '\\('."]),
        ({"name": "judge"}, ["`model` is required", "`file` is required"]),
        ({"name": "anls", "threshold": 1.5}, ["`threshold` must be a number in .0, 1.; got 1.5."]),
    ],
)
def test_all_faults_of_a_scorer_are_named_at_once(spec, faults):
    found = spec_faults(spec)
    assert len(found) == len(faults)
    for sentence, fault in zip(found, faults, strict=True):
        with pytest.raises(ValueError, match=fault.replace("?", "\\?")):
            raise ValueError(sentence)


def test_a_scorer_in_one_line_is_read_again():
    for spec in ("number", {"name": "number", "tolerance": 0.05}, {"name": "regex", "pattern": "is: (\\w+), 'é'"}):
        assert read_spec(spec_text(spec)) == spec
    assert read_spec("{name: number}") == plain_spec({"name": "number"}) == "number"
    with pytest.raises(ValueError, match="a scorer with options is written as"):
        read_spec("{name: number")


def test_other_options_do_not_touch_the_scorer_itself():
    assert scorer_of({"name": "number", "tolerance": 0.5}).options.tolerance == 0.5
    assert SCORERS["number"].options.tolerance == 0


@pytest.fixture
def packages(monkeypatch):
    """Let other packages add scorers: name -> what its entry point loads, an exception to raise."""

    def install(**loaded):
        def point(name, value):
            def load():
                if isinstance(value, Exception):
                    raise value
                return value

            return SimpleNamespace(name=name, load=load, dist=SimpleNamespace(name="pkg"), value="pkg:x")

        found = [point(*entry) for entry in loaded.items()]
        monkeypatch.setattr(metadata, "entry_points", lambda group: found if group == registry.GROUP else [])
        registry._found.cache_clear()

    yield install
    monkeypatch.undo()
    registry._found.cache_clear()


def test_a_scorer_of_another_package_is_used_by_its_name(packages):
    def half(prediction, record):
        return Score(0.5 if prediction else 0.0, True)

    packages(half=RecordScorer(half, "anything"))
    assert spec_faults("half") == []
    assert score_predictions("half", ["a", ""], [{"answer": "b"}] * 2).accuracy == 25


def test_a_broken_scorer_of_another_package_is_an_error_where_it_is_named_alone(packages):
    packages(broken=RuntimeError("no such file"), odd=int, box=RecordScorer(len, "x"))
    assert spec_faults("number") == []
    (fault,) = spec_faults("broken")
    assert "the scorer 'broken' of the package pkg cannot be loaded: RuntimeError('no such file')" in fault
    (fault,) = spec_faults("odd")
    assert "must be an instance of sefe_plugin.evaluation.scorers.Scorer" in fault
    assert "has the name of another" in spec_faults("box")[0]


@pytest.fixture
def server(monkeypatch):
    """A judge that gives 8 to a dog, no rating to "odd", and 2 to all others; keeps what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            request = body["messages"][-1]["content"]
            asked.append(request)
            answer = request.partition("[Answer to be rated]\n")[2].partition("\n\n")[0]
            content = {"a dog": "8", "one dog": "8", "odd": "On a scale of 0 to 10: 9"}.get(answer, "Rating: 2")
            reply = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *args):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    yield SimpleNamespace(url=f"http://127.0.0.1:{httpd.server_port}/v1", asked=asked)
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_a_judge_is_asked_once_for_each_answer(server, tmp_path):
    spec = {"name": "judge", "model": "m", "base_url": server.url, "file": str(tmp_path / "ratings.jsonl")}
    records = [{"text": "<image>\nWhat is it?", "answer": "a dog"}] * 3
    assert judge_predictions(spec, ["a dog", "a cat", "a cat"], records) is None
    score = score_predictions(spec, ["a dog", "a cat", "a cat"], records)
    assert score.accuracy == pytest.approx(40)
    assert score.format is None
    assert len(server.asked) == 2
    assert score_predictions(spec, ["a dog", "a cat", "a cat"], records) == score
    assert [one.correct for one in judge_predictions(spec, ["a dog", "a cat", "a cat"], records)] == [0.8, 0.2, 0.2]
    assert len(server.asked) == 2
    assert score_predictions(spec, ["one dog"], records[:1]).accuracy == 80
    assert len(server.asked) == 3


def test_what_a_judge_is_asked():
    request = judge_request("cat", {"text": "<image>\nWhat is it?", "answers": ["a cat", "kitten"]})
    assert request.startswith(
        "[Question]\nWhat is it?\n\n[Right answer]\na cat / kitten\n\n[Answer to be rated]\ncat\n\n"
    )
    with pytest.raises(ValueError, match="needs its question"):
        judge_request("cat", {"answer": "a cat"})


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        *[("8", 0.8), (" 7.5\n", 0.75), ("0", 0), ("10", 1), ("7/10", 0.7), ("8 out of 10", 0.8), ("**9**", 0.9)],
        *[("Rating: 8", 0.8), ("The rating is 6.", 0.6), ("score = 4", 0.4), ("<think>\n\n</think>\n\n8", 0.8)],
        *[(text, None) for text in ("", "11", "100", "8/100", "-5", "nan", "none", "<think>", "10 9", "1.2.3")],
        *[(text, None) for text in ("Rating (0-10): 8", "On a scale of 0 to 10: 9", "<think> 8", "I cannot rate 1.")],
    ],
)
def test_a_rating_is_one_number_alone(reply, rating):
    assert parse_rating(reply) == rating


def test_replies_that_are_no_ratings_are_told_and_not_kept(server, tmp_path, caplog):
    file = tmp_path / "ratings.jsonl"
    spec = {"name": "judge", "model": "m", "base_url": server.url, "file": str(file)}
    records = [{"text": "What is it?", "answer": "a dog"}] * 2
    assert score_predictions(spec, ["a dog", "odd"], records).accuracy == pytest.approx(40)
    assert "1 of 2 replies of the judge 'm' are no rating from 0 to 10, such as 'On a scale" in caplog.text
    assert len(file.read_text().splitlines()) == 1
    assert judge_predictions(spec, ["a dog", "odd"], records) is None
    score_predictions(spec, ["a dog", "odd"], records)
    assert len(server.asked) == 3  # the odd one again
    with pytest.raises(ValueError, match=r"1 of 1 replies .*Name a judge that replies with the number alone"):
        score_predictions(spec, ["odd"], records[:1])


def test_a_kept_reply_that_is_no_rating_is_asked_for_again(server, tmp_path):
    file = tmp_path / "ratings.jsonl"
    spec = {"name": "judge", "model": "m", "base_url": server.url, "file": str(file)}
    records = [{"text": "What is it?", "answer": "a dog"}]
    score_predictions(spec, ["a dog"], records)
    file.write_text(json.dumps({**json.loads(file.read_text()), "reply": "<think>", "rating": 0.0}) + "\n")
    assert score_predictions(spec, ["a dog"], records).accuracy == 80
    assert score_predictions(spec, ["a dog"], records).accuracy == 80
    assert len(server.asked) == 2


@pytest.mark.parametrize("address", ["https://u:PW@h/v1", "https://h/v1?api_key=sk-abc", "localhost:8000/v1"])
def test_a_judges_address_is_checked_and_never_repeated(address):
    (fault,) = spec_faults({"name": "judge", "model": "m", "file": "r.jsonl", "base_url": address})
    assert "`scorer: judge`: `base_url`: must" in fault
    assert not any(part in fault for part in ("PW", "sk-abc", "localhost"))


def test_what_a_judge_needs_is_looked_for(tmp_path, monkeypatch):
    def faults(file):
        return scorer_of({"name": "judge", "model": "m", "file": str(file)}).setup_faults()

    (tmp_path / "taken").write_text("")
    assert faults(tmp_path / "new" / "r.jsonl") == faults(tmp_path / "taken") == []
    for file in (tmp_path, tmp_path / "taken" / "r.jsonl"):
        assert faults(file) == [f"`file` must be a file that can be written; got {str(file)!r}."]
    monkeypatch.setattr("sefe_plugin.evaluation.scorers.judge.find_spec", lambda name: None)
    assert faults(tmp_path / "r.jsonl") == ["asking a server needs: pip install 'sefe-plugin[judge]'."]


def test_a_judge_is_the_same_from_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = {"name": "judge", "model": "m", "file": "r.jsonl"}
    assert settled_spec(spec) == {**spec, "file": str(tmp_path / "r.jsonl")}
    assert settled_spec({"name": "number", "tolerance": 0.1}) == {"name": "number", "tolerance": 0.1}


def test_a_judge_that_does_not_answer_is_named(tmp_path, monkeypatch):
    spec = {"name": "judge", "model": "m", "base_url": "http://127.0.0.1:9/v1", "file": str(tmp_path / "r.jsonl")}
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(ValueError, match=r"the judge 'm' at http://127.0.0.1:9/v1/ does not answer"):
        score_predictions(spec, ["a"], [{"text": "?", "answer": "b"}])


@pytest.mark.parametrize("scorer", SCORERS)
def test_every_scorer_goes_to_other_processes(scorer):
    own = pickle.loads(pickle.dumps(SCORERS[scorer]))
    assert own.options == SCORERS[scorer].options

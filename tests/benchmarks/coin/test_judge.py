"""The judge against a stub of an OpenAI-compatible server."""

import argparse
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sefe_plugin.benchmarks.coin.commands import add_commands
from sefe_plugin.benchmarks.coin.judge import judge_file, judge_request, knowledge_capability, parse_rating
from sefe_plugin.evaluation.judging import open_judge
from sefe_plugin.json_lines import GrowingFile


ROW = {
    "question_id": 1,
    "text": "<image>\nWhat is it?\nAnswer the question using a single word or phrase.",
    "answer": "a cat",
    "prediction": "cat",
}


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        *[("10", 10), (" 7.5\n", 7.5), ("0", 0), ("-3", -3), ("10.5", 0), ("100", 0), ("nan", 0), ("-inf", 0)],
        *[("8/10", 8), ("11/10", 0), ("7.5/10", 0), ("Rating: 8/10", 0), ("9 /10", 0)],
        *[("Rating: 6", 6), ("10 points", 1), ("0 points", 0), ("The score is 0, not 9.", 9), ("none", 0), ("", 0)],
    ],
)
def test_ratings_are_read_as_coin_does(reply, rating):
    assert parse_rating(reply) == rating


def test_knowledge_capability_is_a_whole_percentage():
    assert knowledge_capability([10, 5, 0]) == 50
    assert knowledge_capability([10, 10, 0]) == 67


def test_a_request_holds_question_solution_and_answer_in_order():
    request = judge_request("VQAv2", ROW)
    blocks = ["[Question]\nWhat is it?\n\n", "[Reference answer]\na cat\n\n", "[Candidate's answer]\ncat\n\n"]
    assert request.startswith("".join(blocks))
    assert "single word or phrase" not in request
    assert "<image>" not in request


def test_grounding_keeps_its_line_and_explains_boxes():
    row = {"text": "<image>\nThe box of 'it'?", "answer_bbox": "[0, 0, 1, 1]", "prediction": "x"}
    request = judge_request("Grounding", row)
    assert request.startswith("[Question]\nThe box of 'it'?\n\n[Reference answer]\n[0, 0, 1, 1]")
    assert "[x1, y1, x2, y2]" in request
    assert "[x1, y1, x2, y2]" not in judge_request("VQAv2", ROW)


def test_a_question_of_one_line_stays():
    assert judge_request("GQA", ROW | {"text": "What is it?"}).startswith("[Question]\nWhat is it?\n")


@pytest.fixture
def predictions(tmp_path):
    file = tmp_path / "VQAv2.jsonl"
    rows = [ROW | {"question_id": i, "prediction": f"answer {i}"} for i in range(10)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def by_number(request):
    """Rates "answer i" with i."""
    return request.split("[Candidate's answer]\nanswer ")[1].split("\n")[0]


def read_rows(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]


def test_every_answer_is_judged_in_order(predictions, tmp_path):
    out = tmp_path / "new" / "out.jsonl"
    # 0 + 1 + ... + 9 = 45 of 100
    assert judge_file("VQAv2", predictions, out, "judge-1", by_number, workers=4) == 45
    assert [row["rating"] for row in read_rows(out)] == list(range(10))
    assert [row["question_id"] for row in read_rows(out)] == list(range(10))


def test_a_stopped_command_continues(predictions, tmp_path):
    out, asked = tmp_path / "out.jsonl", []

    def failing(request):
        if by_number(request) == "6":
            raise ValueError("no answer")
        return by_number(request)

    with pytest.raises(ValueError, match="no answer"):
        judge_file("VQAv2", predictions, out, "judge-1", failing, workers=1)
    assert len(read_rows(out)) == 6
    with out.open("a") as lines:
        lines.write('{"cut off')
    assert (
        judge_file("VQAv2", predictions, out, "judge-1", lambda request: asked.append(request) or by_number(request))
        == 45
    )
    assert len(asked) == 4
    assert judge_file("VQAv2", predictions, out, "judge-1", failing) == 45


def test_judgements_of_other_predictions_are_kept(predictions, tmp_path):
    out = tmp_path / "out.jsonl"
    judge_file("VQAv2", predictions, out, "judge-1", by_number)
    before = out.read_text()
    predictions.write_text(json.dumps(ROW) + "\n")
    with pytest.raises(ValueError, match="judgements of other predictions; choose another file with --out"):
        judge_file("VQAv2", predictions, out, "judge-1", by_number)
    assert out.read_text() == before


def test_judgements_of_another_judge_or_task_are_not_taken_over(predictions, tmp_path):
    out = tmp_path / "out.jsonl"
    judge_file("VQAv2", predictions, out, "judge-1", by_number)
    before = out.read_text()
    assert all(row["judge"] == {"model": "judge-1", "task": "VQAv2"} for row in read_rows(out))
    for task, model in (("VQAv2", "judge-2"), ("GQA", "judge-1")):
        with pytest.raises(
            ValueError, match=rf"by .*judge-1.*, not by .*{model}.*{task}.*choose another file with --out"
        ):
            judge_file(task, predictions, out, model, by_number)
    assert out.read_text() == before
    # as written before judges had names
    out.write_text(before.replace(json.dumps("judge"), json.dumps("other")))
    for row in (rows := read_rows(out)):
        del row["other"]
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="by an unnamed judge, not by"):
        judge_file("VQAv2", predictions, out, "judge-1", by_number)


def test_line_separators_in_a_text_cut_no_record(tmp_path):
    file, out = tmp_path / "p.jsonl", tmp_path / "out.jsonl"
    row = ROW | {"prediction": "one\u2028two\u2029three\x85four"}
    file.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    for _ in range(2):
        assert judge_file("VQAv2", file, out, "judge-1", lambda request: "7\u2028") == 70
    assert read_rows(out)[0].items() >= row.items()


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("VQA", ROW, "must be one of ScienceQA, .*; got 'VQA'"),
        ("GQA", {"text": "q", "prediction": "x"}, r"line 1: .*needs a text as 'answer', got None"),
        ("Grounding", ROW, "line 1: .*'answer_bbox'"),
        ("GQA", {"answer": "q", "prediction": "x"}, "line 1: .*'text'"),
    ],
)
def test_faults_are_named_before_anything_is_asked(tmp_path, task, row, message):
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=message):
        judge_file(task, tmp_path / "p.jsonl", tmp_path / "out.jsonl", "judge-1", None)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.fixture
def server():
    """A server whose judge rates "answer i" with "i/10"; it keeps what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.seen.append((self.path, self.headers["Authorization"], body))
            content = f"{by_number(body['messages'][-1]['content'])}/10"
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
            reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            data = json.dumps(reply).encode()
            self.send_response(server.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen, server.status = [], 200
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_the_command_asks_a_server(server, predictions, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    arguments = ["judge", "VQAv2", str(predictions), "--model", "judge-1", "--base-url", server.url]
    options = parser.parse_args(arguments)
    options.run(options)
    assert capsys.readouterr().out == "45\n"
    assert len(server.seen) == 10
    path, authorization, body = server.seen[0]
    assert (path, authorization) == ("/v1/chat/completions", "Bearer from-the-environment")
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("judge-1", 0, 20)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert len(read_rows(predictions.with_suffix(".judged.jsonl"))) == 10


def test_a_server_that_refuses_is_named(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    server.status = 400
    with pytest.raises(ValueError, match=rf"'judge-1' at {server.url}/ does not answer"):
        open_judge("judge-1", server.url)("[Candidate's answer]\nanswer 1\n")


@pytest.mark.parametrize("status", [400, 401])
def test_a_servers_words_are_not_repeated(server, monkeypatch, status):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server.status = status
    with pytest.raises(ValueError, match=f"does not answer: .*status {status}") as error:
        open_judge("judge-1", server.url)("[Candidate's answer]\nanswer sk-secret\n")
    assert "sk-secret" not in str(error.value)


def test_an_address_with_a_secret_is_refused(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    with pytest.raises(ValueError, match="no password and no query"):
        open_judge("judge-1", "http://user:word@host/v1")


def test_two_commands_cannot_write_one_file(predictions, tmp_path):
    out = tmp_path / "out.jsonl"
    with GrowingFile(out), pytest.raises(ValueError, match="another process is writing"):
        judge_file("VQAv2", predictions, out, "judge-1", by_number)


def test_a_wrong_out_loses_nothing(predictions, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW))
    before = out.read_text()
    with pytest.raises(ValueError, match="judgements of other predictions"):
        judge_file("VQAv2", predictions, out, "judge-1", by_number)
    assert out.read_text() == before


def test_the_key_comes_from_the_environment_only(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        open_judge("judge-1", "http://127.0.0.1:1/v1", needs_key=True)


def test_a_missing_client_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ValueError, match=r"pip install 'sefe-plugin\[judge\]'"):
        open_judge("judge-1")

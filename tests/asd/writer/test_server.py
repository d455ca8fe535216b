"""The generator `openai` against a real HTTP server."""

import base64
import json
import logging
import multiprocessing
import os
import random
import signal
import statistics
import time
from contextlib import asynccontextmanager

import pytest
from PIL import Image

from sefe_plugin.asd.build import build
from sefe_plugin.asd.dataset import open_dataset
from sefe_plugin.asd.diversify import diversify
from sefe_plugin.asd.writer.generators import OpenAIGenerator
from sefe_plugin.asd.writer.templates import Task
from sefe_plugin.data.sample import Sample


KEY = "sk-secret-0123456789"
COLORS = ("red", "blue", "green", "grey", "black")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def samples_of(count):
    return [Sample(f"<image>\nWhat color is number {i}?", COLORS[i % 5]) for i in range(count)]


def write(folder, count):
    Image.new("RGB", (6, 4), (9, 8, 7)).save(folder / "0.png")
    records = [{"image": "0.png", "instruction": s.question, "output": s.answer} for s in samples_of(count)]
    (folder / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return open_dataset(str(folder / "data.jsonl"), folder)


def turns_of(file):
    return [Sample(r["instruction"], r["output"]) for r in map(json.loads, file.read_text().splitlines())]


def counts(summary, author):
    return sum(made.get(author, 0) for made in summary.styles.values())


def test_what_is_sent(stub, tmp_path):
    dataset = write(tmp_path, 40)
    generator = OpenAIGenerator("my-model", stub.url, max_tokens=77, temperature=0.5)
    summary = build(dataset, tmp_path / "new.jsonl", 1.0, seed=0, generator=generator)
    assert counts(summary, "model") == summary.asked == len(stub.bodies) > 20
    assert counts(summary, "fallback") == 0
    assert generator.options == {"max_tokens": 77, "temperature": 0.5}
    for body, headers in zip(stub.bodies, stub.headers, strict=True):
        assert {name: value for name, value in body.items() if name != "messages"} == {
            "model": "my-model",
            "max_tokens": 77,
            "temperature": 0.5,
        }
        (message,) = body["messages"]
        image, text = message["content"]
        assert image["image_url"]["url"].startswith("data:image/png;base64,")
        content = base64.b64decode(image["image_url"]["url"].split(",")[1])
        assert content == (tmp_path / "0.png").read_bytes()
        assert "What color is number" in text["text"] and "<image>" not in text["text"]
        assert headers["Authorization"] == f"Bearer {KEY}"


def test_a_server_of_ones_own_needs_no_key(stub, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_BASE_URL", stub.url)
    summary = build(write(tmp_path, 20), tmp_path / "new.jsonl", 1.0, seed=0, generator=OpenAIGenerator("m"))
    assert counts(summary, "model") == summary.asked > 0


def test_a_server_that_stumbles_is_asked_again(stub, tmp_path):
    """Of every prompt the first request gets 429, 500, 503, or no answer in time; the second is answered."""
    seen, good = {}, stub.respond

    def respond(body):
        prompt = json.dumps(body["messages"])
        seen[prompt] = seen.get(prompt, 0) + 1
        trouble = len(seen) % 5
        if seen[prompt] > 1 or trouble == 4:
            return good(body)
        if trouble == 3:
            time.sleep(0.6)
            return 500, {}, b"{}"
        return (429, 500, 503)[trouble], {"Retry-After-Ms": "5"}, json.dumps({"error": KEY}).encode()

    stub.respond = respond
    generator = OpenAIGenerator("m", stub.url, timeout=0.5, concurrency=1)
    summary = build(write(tmp_path, 16), tmp_path / "new.jsonl", 1.0, seed=0, generator=generator)
    assert counts(summary, "model") == summary.asked > 8
    assert max(seen.values()) == 2 and not summary.failures


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b"garbage", "JSONDecodeError"),
        (200, b'"text"', "an answer without a text"),
        (200, b'{"choices": []}', "an answer without a text"),
        (200, b'{"choices": [{"message": {"content": null}}]}', "an answer without a text"),
        (200, b'{"choices": [{"message": {"content": 5}}]}', "an answer without a text"),
        (400, b'{"error": "too long"}', "status 400"),
        (500, b"", "status 500"),
        (200, "text without JSON", "no usable reply"),
        (200, '[{"index": 9, "question": "What?", "text": "Wrong index."}]', "no usable reply"),
    ],
)
def test_answers_of_no_use_fall_back_to_rules(stub, tmp_path, status, body, reason):
    bad, good = [], stub.respond

    def respond(request):
        # Every third prompt is out of luck, however often it is sent.
        prompt = request["messages"][0]["content"][-1]["text"]
        if (sum(map(ord, prompt)) % 3) == 0:
            bad.append(prompt)
            return status, {"Retry-After-Ms": "1"}, body
        return good(request)

    stub.respond = respond
    generator = OpenAIGenerator("m", stub.url, concurrency=4, retries=2)
    summary = build(
        write(tmp_path, 40), tmp_path / "new.jsonl", 1.0, seed=0, generator=generator, tries=2, max_fallback=1
    )
    assert summary.failures == {reason: len(set(bad))} and len(set(bad)) > 3
    assert counts(summary, "fallback") == len(set(bad)) and counts(summary, "model") > 10
    by_rule = diversify(samples_of(40), 1.0, seed=0)[0]
    records = [json.loads(line) for line in (tmp_path / "new.jsonl").read_text().splitlines()]
    for record, rule in zip(records, by_rule, strict=True):
        if record["asd"]["generator"] == "rules":
            assert Sample(record["instruction"], record["output"]) == rule


def test_requests_that_time_out_fall_back(stub, tmp_path):
    good, slow = stub.respond, []

    def respond(body):
        text = body["messages"][0]["content"][-1]["text"]
        if '"index": 1, "question": "What color is number 7?"' in text:
            slow.append(text)
            time.sleep(0.7)
        return good(body)

    stub.respond = respond
    generator = OpenAIGenerator("m", stub.url, concurrency=1, retries=0, timeout=0.5)
    summary = build(write(tmp_path, 12), tmp_path / "new.jsonl", 1.0, seed=1, generator=generator, max_fallback=1)
    assert slow and summary.failures == {"no answer in time": len(slow)}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_refuses_stops_the_build_at_once(stub, tmp_path, caplog, status):
    stub.respond = lambda body: (status, {}, json.dumps({"error": {"message": f"bad key {KEY}"}}).encode())
    with caplog.at_level(logging.DEBUG), pytest.raises(ConnectionError, match=f"status {status}") as error:
        build(write(tmp_path, 100), tmp_path / "new.jsonl", 1.0, seed=0, generator=OpenAIGenerator("m", stub.url))
    assert len(stub.bodies) <= 16 and not (tmp_path / "new.jsonl").exists()
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    ("left_out", "text"),
    [
        ({}, "Unsupported parameter: 'max_tokens' is not supported with this model."),
        ({"max_tokens": None}, "Unsupported value: 'temperature' does not support 0.0 with this model."),
    ],
)
def test_a_server_that_does_not_take_an_option_stops_the_build_at_once(stub, tmp_path, left_out, text):
    stub.respond = lambda body: (400, {}, json.dumps({"error": {"message": f"{text} {KEY}"}}).encode())
    generator = OpenAIGenerator("m", stub.url, **left_out)
    with pytest.raises(
        ConnectionError, match=r"does not take such requests: .*--max-tokens or --temperature"
    ) as error:
        build(write(tmp_path, 100), tmp_path / "new.jsonl", 1.0, seed=0, generator=generator)
    assert text in str(error.value) and KEY not in str(error.value)
    assert len(stub.bodies) <= 16 and not (tmp_path / "new.jsonl").exists()


def test_options_that_are_none_are_not_sent(stub, tmp_path):
    generator = OpenAIGenerator("m", stub.url, max_tokens=None, temperature=None)
    summary = build(write(tmp_path, 12), tmp_path / "new.jsonl", 1.0, seed=0, generator=generator)
    assert counts(summary, "model") == len(stub.bodies) > 0 and generator.options == {}
    assert all(body.keys() == {"model", "messages"} for body in stub.bodies)


@pytest.mark.parametrize("count", [2, 100])
def test_a_server_that_is_not_there_stops_the_build(tmp_path, count):
    generator = OpenAIGenerator("m", "http://127.0.0.1:9/v1", concurrency=2, retries=0)
    with pytest.raises(ConnectionError, match="in a row got no reply, the last: APIConnectionError"):
        build(write(tmp_path, count), tmp_path / "new.jsonl", 1.0, seed=0, generator=generator)


def test_the_key_is_written_nowhere(stub, tmp_path, caplog, capfd):
    good = stub.respond
    stub.respond = lambda body: (500, {}, KEY.encode()) if len(stub.bodies) % 4 == 0 else good(body)
    with caplog.at_level(logging.INFO):
        generator = OpenAIGenerator("m", stub.url, retries=0)
        build(write(tmp_path, 60), tmp_path / "new.jsonl", 1.0, seed=0, generator=generator, max_fallback=1)
    written = [path.read_bytes() for path in tmp_path.iterdir()]
    assert len(written) >= 5 and not any(KEY.encode() in content for content in written)
    assert KEY not in caplog.text and KEY not in "".join(capfd.readouterr())
    assert any(headers["Authorization"].endswith(KEY) for headers in stub.headers)


def test_images_that_are_missing_do_not_stop_the_build(stub, tmp_path):
    dataset = write(tmp_path, 100)
    (tmp_path / "0.png").unlink()
    generator = OpenAIGenerator("m", stub.url, concurrency=2)
    summary = build(dataset, tmp_path / "new.jsonl", 1.0, seed=0, generator=generator, max_fallback=1)
    assert list(summary.failures) == ["an image cannot be read"] and not stub.bodies
    assert summary.failures["an image cannot be read"] == counts(summary, "fallback") > 50


@pytest.mark.parametrize("url", ["http://user:word@host/v1", "http://host/v1?key=word"])
def test_an_address_with_a_secret_is_refused(url):
    with pytest.raises(ValueError, match="no password and no query"):
        OpenAIGenerator("m", url)


def test_never_more_than_the_limit_at_once(stub, tmp_path):
    stub.latency = 0.02
    generator = OpenAIGenerator("m", stub.url, concurrency=7)
    build(write(tmp_path, 60), tmp_path / "new.jsonl", 1.0, seed=0, generator=generator)
    assert stub.most_at_once == 7


class Timed(OpenAIGenerator):
    """Notes when each request starts."""

    @asynccontextmanager
    async def session(self):
        self.started = []
        async with super().session() as reply:

            async def timed(turns, images):
                self.started.append(time.perf_counter())
                return await reply(turns, images)

            yield timed


def test_latency_and_limit_alone_decide_the_throughput(stub_process, tmp_path):
    latency, limit = 1.0, 8
    generator = Timed("m", stub_process(latency), concurrency=limit)
    build(write(tmp_path, 92), tmp_path / "new.jsonl", 1.0, seed=0, generator=generator)
    # From the second round on: the first one also connects. No round can take less than the latency. The quicker
    # rounds tell what the asking takes: a machine with other work makes the rest longer.
    started = generator.started[limit:]
    rounds = [later - earlier for earlier, later in zip(started, started[limit:], strict=False)]
    assert len(rounds) >= 7 * limit
    assert latency <= statistics.quantiles(rounds, n=4)[0] <= latency / 0.95


def _run(url, folder):
    dataset = open_dataset(str(folder / "data.jsonl"), folder)
    generator = OpenAIGenerator("m", url, concurrency=6)
    build(dataset, folder / "new.jsonl", 1.0, seed=0, task=Task(per_image=False), generator=generator)


def _journaled(folder):
    """The samples and styles whose replies are written down whole."""
    file = folder / "new.jsonl.journal.jsonl"
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return {(*record["samples"], record["style"]) for record in map(json.loads, lines)}


def _asked(bodies):
    """Samples (by the number in their question) and form of the texts that were asked for."""
    for body in bodies:
        text = body["messages"][0]["content"][-1]["text"]
        number = int(text.split('"question": "What color is number ')[1].split("?")[0])
        marks = {'"distractors"': "multiple_choice", '"distractor"': "yes_no", "20 words": "brief_explanation"}
        yield number, next((style for mark, style in marks.items() if mark in text), "detailed_explanation")


def test_killed_ten_times_the_result_is_the_same_and_nothing_is_asked_twice(stub, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for folder in (undisturbed, killed):
        folder.mkdir()
        write(folder, 240)
    _run(stub.url, undisturbed)
    distinct = len(stub.bodies)
    stub.latency = 0.03
    fork, rng, kills = multiprocessing.get_context("fork"), random.Random(0), 0
    while kills < 10:
        before, known = len(stub.bodies), _journaled(killed)
        process = fork.Process(target=_run, args=(stub.url, killed))
        process.start()
        deadline = time.monotonic() + 60
        # Wait for the first request of this process, then for a random moment: before, within and between answers.
        while len(stub.bodies) == before and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.1)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (killed / "new.jsonl").exists()
        assert not known & set(_asked(stub.bodies[before:]))
        assert known <= _journaled(killed)
        kills += 1
    before, known = len(stub.bodies), _journaled(killed)
    assert 0 < len(known) < distinct
    _run(stub.url, killed)
    assert not known & set(_asked(stub.bodies[before:]))
    for name in ("new.jsonl", "new.jsonl.manifest.json"):
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes()
    # Only what was under way at a kill is sent again: at most 6 requests each time.
    assert distinct <= len(stub.bodies) - distinct <= distinct + 10 * 6

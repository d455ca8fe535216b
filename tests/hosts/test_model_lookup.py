"""What the host knows of a model and of data before there is a recipe."""

import json
import shutil
from itertools import pairwise

import pytest
from llamafactory.data.template import TEMPLATES
from llamafactory.extras.constants import DEFAULT_TEMPLATE, SUPPORTED_MODELS

from sefe_plugin.benchmarks.minicoin import BASE
from sefe_plugin.hosts.llamafactory.model_lookup import asd_fault, template_names, templates_of


LINE = "\nAnswer the question using a single word or phrase."


@pytest.mark.parametrize(
    ("model", "template"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_vl"),
        ("/models/qwen2.5-vl-7b-instruct", "qwen2_vl"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2"),
        ("llava-hf/llava-1.5-7b-hf", "llava"),
    ],
)
def test_the_registry_of_the_host_names_the_template(model, template):
    assert templates_of(model) == [template]


def test_every_registered_model_has_a_template_of_the_host():
    for title in (title for title in SUPPORTED_MODELS if title in DEFAULT_TEMPLATE):
        for place in SUPPORTED_MODELS[title].values():
            assert set(templates_of(place)) <= {*template_names()}, place


@pytest.mark.parametrize(("talk", "fitting"), [(None, "llava"), ("chatml", "qwen2_vl"), ("bare", None)])
def test_the_chat_template_of_other_models_is_compared_with_the_host_s(tmp_path, monkeypatch, talk, fitting):
    for name in ("llava", "qwen2_vl", "qwen2_audio"):  # tasks of other tests may have changed it
        monkeypatch.setattr(
            TEMPLATES[name], "default_system", "" if name == "llava" else "You are a helpful assistant."
        )
    folder = shutil.copytree(BASE, tmp_path / "model")
    template = folder / "chat_template.jinja"
    if talk == "chatml":
        template.write_text(
            "{{ '<|im_start|>system\n' }}You are a helpful assistant.{{ '<|im_end|>\n' }}{% for message in messages %}"
            "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
            "{{ '<|im_start|>assistant\n' }}"
        )
    elif talk == "bare":
        template.write_text("{% for message in messages %}<{{ message['content'] }}>{% endfor %}")
    found = templates_of(str(folder))
    assert fitting in found if fitting else not found
    assert not {"vicuna", "qwen", "chatml"} & {*found}  # they take no pictures, and this model does


def test_nothing_is_guessed_of_a_tokenizer_that_needs_a_package(tmp_path, monkeypatch):
    def needs_a_package(arguments):
        raise ImportError("This tokenizer requires the jieba library")

    monkeypatch.setattr("sefe_plugin.hosts.llamafactory.model_lookup.load_tokenizer", needs_a_package)
    assert templates_of(str(tmp_path)) == []


def test_nothing_is_guessed_of_a_model_that_nobody_knows():
    assert templates_of("nobody/nothing") == []


@pytest.fixture
def data(tmp_path):
    """Writes training records of conversations under the name x."""

    def write(records, **entry):
        (tmp_path / "x.json").write_text(json.dumps(records))
        talks = {"formatting": "sharegpt", "columns": {"messages": "conversations"}}
        info = {"x": {"file_name": "x.json", **talks, **entry}, "far": {"hf_hub_url": "nobody/nothing", **talks}}
        (tmp_path / "dataset_info.json").write_text(json.dumps(info))
        return str(tmp_path)

    return write


def talks(*answers, question="What is it?" + LINE) -> list[dict]:
    def turns(answer):
        return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]

    return [{"conversations": turns(answer)} for answer in answers]


def test_asd_can_rewrite_short_answers_in_talks_of_any_length(data):
    short = talks("cat", "dog", "hen", "cow", "pig")
    long = [{"conversations": a["conversations"] + b["conversations"]} for a, b in pairwise(short)]
    assert asd_fault("x", data(short), "short_answer", 0.5, 42) is None
    assert asd_fault("x", data(long), "short_answer", 0.5, 42) is None


def test_asd_cannot_rewrite_descriptions(data):
    captions = talks(*(f"Picture {i} shows a dog that runs over a field." for i in range(5)), question="Describe it.")
    assert "'brief_explanation' cannot be shortened by rule" in asd_fault("x", data(captions), "short_answer", 0.2, 42)


def test_the_scorer_tells_what_letters_are(data):
    letters = talks("A", "B", "C", "D", "A", question="Which?\nA. w\nB. x\nC. y\nD. z\nAnswer in a phrase.")
    assert asd_fault("x", data(letters), "multiple_choice", 0.2, 42) is None


def test_what_is_not_here_is_not_judged_and_broken_records_are_told(data):
    folder = data(talks("cat"))
    assert asd_fault("far", folder, "short_answer", 0.2, 42) is None
    with pytest.raises(ValueError, match=r"LLaMA-Factory cannot convert the records of .*x\.json"):
        asd_fault("x", data([{"conversations": [3]}]), "short_answer", 0.2, 42)

import argparse
import json
import subprocess
import sys

import pytest
from PIL import Image

from sefe_plugin.asd.dataset import open_dataset
from sefe_plugin.asd.diversify import diversify
from sefe_plugin.cli.asd import add_command
from sefe_plugin.data.sample import Sample


SAMPLES = [Sample(f"What color is number {i}?", ("red", "blue", "green", "grey")[i % 4]) for i in range(50)]


@pytest.fixture
def folder(tmp_path):
    records = [{"instruction": sample.question, "input": "", "output": sample.answer} for sample in SAMPLES]
    (tmp_path / "colors.json").write_text(json.dumps(records))
    (tmp_path / "dataset_info.json").write_text(json.dumps({"colors": {"file_name": "colors.json"}}))
    return tmp_path


def run(*arguments):
    parser = argparse.ArgumentParser()
    add_command(parser.add_subparsers(required=True))
    options = parser.parse_args([str(argument) for argument in arguments])
    options.run(options)


def test_build_and_preview_by_name(folder, capsys):
    out = folder / "out" / "colors.json"
    run("asd", "build", "--dataset", "colors", "--dataset_dir", folder, "--ratio", 0.4, "--seed", 5, "--out", out)
    records = json.loads(out.read_text())
    assert [Sample(r["instruction"], r["output"]) for r in records] == diversify(SAMPLES, 0.4, seed=5)[0]
    table = capsys.readouterr().out
    assert "50 samples, own style short_answer" in table
    assert [line.split() for line in table.splitlines()[2:6]] == [
        [style, "5", "0", "0", "0"]
        for style in ("yes_no", "multiple_choice", "brief_explanation", "detailed_explanation")
    ]
    run("asd", "preview", "--dataset", out, "--out", folder / "page.html", "--samples", 2)
    assert (folder / "page.html").read_text().count("<article") == 8


def entry_in(said: str) -> dict:
    """The entry that a build has printed."""
    return json.loads(said[said.index("\n{") : said.rindex("}") + 1])


@pytest.mark.parametrize("place", ["new.json", "deep/er/new.json"])
def test_build_prints_the_entry_that_declares_its_file(folder, capsys, place):
    info = folder / "dataset_info.json"
    columns = {"columns": {"prompt": "instruction", "response": "output"}}
    info.write_text(json.dumps({"colors": {"file_name": "colors.json", **columns}}))
    out = folder / place
    run("asd", "build", "--dataset", "colors", "--dataset-dir", folder, "--out", out)
    said = capsys.readouterr().out
    assert f"{out} is written. Put this entry into {info}:" in said
    assert "`dataset: new` and `asd_ratio: 0`." in said
    entry = entry_in(said)
    assert entry == {"new": {"file_name": place, **columns}}
    info.write_text(json.dumps(entry))
    assert len(open_dataset("new", folder)) == 50


def test_the_entry_of_a_file_without_one_is_made_of_its_layout(folder, capsys):
    records = [{"messages": [{"role": "user", "content": s.question}, {"role": "assistant", "content": s.answer}]}
               for s in SAMPLES]  # fmt: skip
    (folder / "talks.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    out = folder / "out" / "new.jsonl"
    run("asd", "build", "--dataset", folder / "talks.jsonl", "--out", out)
    said = capsys.readouterr().out
    (out.parent / "dataset_info.json").write_text(json.dumps(entry_in(said)))
    assert open_dataset("new", out.parent).layout == open_dataset(str(folder / "talks.jsonl"), folder).layout
    assert f"`asd_ratio: 0`, `media_dir: {folder}`." in said


def test_the_paper_s_share_is_the_default(folder):
    run("asd", "build", "--dataset", folder / "colors.json", "--out", folder / "new.json")
    assert sum("asd" in record for record in json.loads((folder / "new.json").read_text())) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "shapes"], "has no dataset 'shapes'; it has colors"),
        (["--dataset", "colors", "--task", "Chess"], "describes no task 'Chess'"),
        (["--dataset", "colors", "--generator", "openai"], "needs --model"),
        (["--dataset", "colors", "--generator", "llamafactory"], "needs --config"),
        (["--dataset", "colors", "--ratio", "20"], "write 20 percent as 0.2"),
        (["--dataset", "colors", "--task", "Grounding"], "only 0 can be"),
    ],
)
def test_mistakes_are_named(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        run("asd", "build", "--dataset_dir", folder, "--out", folder / "new.json", *arguments)
    assert not (folder / "new.json").exists()


def test_rules_need_neither_torch_nor_the_packages_of_the_generators(folder):
    """In a process of its own, where none of these can be imported."""
    code = (
        "import sys, argparse\n"
        "for name in ('openai', 'json_repair', 'pydantic', 'torch', 'transformers'): sys.modules[name] = None\n"
        "from sefe_plugin.cli.asd import add_command\n"
        "parser = argparse.ArgumentParser(); add_command(parser.add_subparsers())\n"
        "options = parser.parse_args(sys.argv[1:]); options.run(options)\n"
    )
    build = ["asd", "build", "--dataset", str(folder / "colors.json"), "--out", str(folder / "new.json")]
    subprocess.run([sys.executable, "-c", code, *build], check=True, capture_output=True)
    assert (folder / "new.json").is_file()
    failed = subprocess.run(
        [sys.executable, "-c", code, *build, "--generator", "openai", "--model", "m"], capture_output=True, text=True
    )
    assert "pip install 'sefe-plugin[asd]'" in failed.stderr.splitlines()[-1]
    (folder / "chat.yaml").write_text("model_name_or_path: none")
    host = ["--generator", "llamafactory", "--config", str(folder / "chat.yaml")]
    failed = subprocess.run([sys.executable, "-c", code, *build, *host], capture_output=True, text=True)
    assert failed.stderr.splitlines()[-1].startswith("ValueError: reading a model's replies needs: pip install")


@pytest.mark.parametrize("joint", ["-", "_"])
def test_options_of_several_words_have_two_spellings(joint):
    parser = argparse.ArgumentParser()
    add_command(parser.add_subparsers(required=True))
    values = {"base_url": "http://x/v1", "max_tokens": "7", "dataset_dir": "d", "media_dir": "m"}
    arguments = [part for name, value in values.items() for part in (f"--{name.replace('_', joint)}", value)]
    options = vars(parser.parse_args(["asd", "build", "--dataset", "x", "--out", "y", *arguments]))
    assert {name: str(options[name]) for name in values} == values


def test_options_of_the_server_can_be_left_to_it(capsys):
    parser = argparse.ArgumentParser()
    add_command(parser.add_subparsers(required=True))
    build = ["asd", "build", "--dataset", "x", "--out", "y"]
    options = parser.parse_args(build)
    assert (options.max_tokens, options.temperature) == (2048, 0.0)
    options = parser.parse_args([*build, "--max-tokens", "none", "--temperature", "none"])
    assert (options.max_tokens, options.temperature) == (None, None)
    with pytest.raises(SystemExit):
        parser.parse_args([*build, "--max-tokens", "many"])
    assert "argument --max-tokens/--max_tokens: invalid int value: 'many'" in capsys.readouterr().err


def test_the_preview_finds_the_images_of_a_file_built_elsewhere(folder, tmp_path):
    Image.new("RGB", (6, 4)).save(folder / "0.png")
    records = [{"image": "0.png", "instruction": f"<image>\n{s.question}", "output": s.answer} for s in SAMPLES]
    (folder / "colors.json").write_text(json.dumps(records))
    out, page = tmp_path / "elsewhere" / "new.json", tmp_path / "page.html"
    run("asd", "build", "--dataset", folder / "colors.json", "--out", out)
    run("asd", "preview", "--dataset", out, "--out", page)
    assert page.read_text().count("<img") == 10 and "cannot be shown" not in page.read_text()
    run("asd", "preview", "--dataset", out, "--media-dir", out.parent, "--out", page)
    assert "<img" not in page.read_text()
    out.with_name("new.json.manifest.json").unlink()
    run("asd", "preview", "--dataset", out, "--out", page)
    assert "0.png cannot be shown" in page.read_text()

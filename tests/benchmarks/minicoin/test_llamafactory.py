"""What LLaMA-Factory makes of mini-CoIN's files and of the base: its own loader, template and processor decide."""

import random
from pathlib import Path

import pytest
from transformers import Seq2SeqTrainingArguments

from sefe_plugin.benchmarks.minicoin.corpus import random_picture, sample_about
from sefe_plugin.benchmarks.minicoin.data import TASKS, write_data
from sefe_plugin.benchmarks.minicoin.forward import encode, pixels
from sefe_plugin.benchmarks.minicoin.tiny_llava import IMAGE_TOKEN, IMAGE_TOKENS


llamafactory_data = pytest.importorskip("llamafactory.data")

TRAIN, TEST = 12, 4


@pytest.fixture(scope="module")
def host():
    """LLaMA-Factory's tokenizer, template and arguments for the shipped base."""
    from llamafactory.hparams import DataArguments, ModelArguments
    from llamafactory.model import load_tokenizer

    from sefe_plugin.benchmarks import minicoin

    base = Path(minicoin.__file__).parent / "base"
    model_args = ModelArguments(model_name_or_path=str(base))
    module = load_tokenizer(model_args)
    data_args = DataArguments(template="llava", default_system="", cutoff_len=256)
    template = llamafactory_data.get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    return model_args, module, template


def test_all_sixteen_data_sets_load(host, tmp_path):
    from llamafactory.hparams import DataArguments

    model_args, module, template = host
    write_data(tmp_path / "data", 0, TRAIN, TEST)
    training_args = Seq2SeqTrainingArguments(output_dir=str(tmp_path / "out"), report_to="none", use_cpu=True)
    for split, size in (("train", TRAIN), ("test", TEST)):
        names = [f"minicoin_{task.name.lower()}_{split}" for task in TASKS]
        data_args = DataArguments(
            template="llava", default_system="", cutoff_len=256, dataset_dir=str(tmp_path / "data"), dataset=names
        )
        data = llamafactory_data.get_dataset(template, model_args, data_args, training_args, stage="sft", **module)
        rows = data["train_dataset"]
        assert len(rows) == len(TASKS) * size
        image = module["tokenizer"].convert_tokens_to_ids(IMAGE_TOKEN)
        for row in rows:
            assert row["input_ids"].count(image) == (IMAGE_TOKENS if row["images"] else 0)
            assert row["images"] is None or Path(row["images"][0]).is_file()
            assert len(row["input_ids"]) < 128


def test_pretraining_saw_exactly_the_hosts_tokens(host):
    _, module, template = host
    tokenizer, processor = module["tokenizer"], module["processor"]
    rng = random.Random(0)
    for picture in [*(random_picture(rng) for _ in range(40)), *[None] * 10]:
        sample = sample_about(picture, rng)
        images = [picture.draw()] if picture else []
        messages = [{"role": "user", "content": sample.question}, {"role": "assistant", "content": sample.answer}]
        messages = template.mm_plugin.process_messages(messages, images, [], [], processor)
        assert template.encode_oneturn(tokenizer, messages) == encode(tokenizer, sample)


def test_pretraining_saw_exactly_the_hosts_pixels(host):
    _, module, template = host
    picture = random_picture(random.Random(1))
    inputs = template.mm_plugin._get_mm_inputs([picture.draw()], [], [], module["processor"])
    assert (inputs["pixel_values"] - pixels([picture])).abs().max() < 1e-6

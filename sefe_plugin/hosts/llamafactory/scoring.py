"""Scores test sets with the host's own template, processor and collator, so that training and scoring agree."""

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from llamafactory.data import MultiModalDataCollatorForSeq2Seq, get_template_and_fix_tokenizer
from llamafactory.data.converter import get_dataset_converter
from llamafactory.data.parser import get_dataset_list
from llamafactory.data.processor import UnsupervisedDatasetProcessor
from llamafactory.model import load_tokenizer
from tqdm import tqdm

from sefe_plugin.evaluation.generate import generate_answers
from sefe_plugin.evaluation.scorers import score_predictions
from sefe_plugin.files import read_json, replacing, write_json


def score_test_sets(model, test_sets: list[Mapping[str, str]], output_dir: Path, arguments: tuple) -> None:
    """Answers every test set by greedy generation and scores it.

    With several processes each answers its share of a test set. Writes `predictions/<name>.jsonl`, one line per
    record with the prediction, and `scores.json` with accuracy and format share in percent.

    Args:
        model: the trained model.
        test_sets: mappings with `name`, `dataset` (the host's name) and `scorer`.
        output_dir: folder of the task.
        arguments: the host's argument objects for model, data, training, fine-tuning and generation.
    """
    model_args, data_args, training_args, _, generating_args = arguments
    loaded = load_tokenizer(model_args)
    tokenizer, processor = loaded["tokenizer"], loaded["processor"]
    data_args = copy.copy(data_args)
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    tokenizer.padding_side = "left"
    encoder = UnsupervisedDatasetProcessor(
        template=template, tokenizer=tokenizer, processor=processor, data_args=data_args
    )
    collator = MultiModalDataCollatorForSeq2Seq(
        template=template, model=model, tokenizer=tokenizer, processor=processor
    )
    rank, world = training_args.process_index, training_args.world_size

    def decode(tokens: list[int]) -> str:
        return tokenizer.decode(tokens, skip_special_tokens=True)

    scores = {}
    progress = tqdm(test_sets, desc="Scoring", unit="test set", disable=rank != 0)
    for test_set in progress:
        progress.set_postfix_str(test_set["name"])
        records = read_records(test_set["dataset"], data_args)
        features = _encode(records, test_set["dataset"], encoder)
        # neighbours in length share a batch; every process takes each world-th sample
        own = sorted(range(len(records)), key=lambda i: len(features[i]["input_ids"]))[rank::world]
        answers = generate_answers(
            model,
            _batches([features[i] for i in own], collator, training_args.per_device_eval_batch_size),
            decode,
            max_new_tokens=generating_args.max_new_tokens,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        answered = dict(zip(own, answers, strict=True))
        if world > 1:
            gathered = [None] * world
            dist.all_gather_object(gathered, answered)
            answered = {index: answer for part in gathered for index, answer in part.items()}
        predictions = [answered[index] for index in range(len(records))]
        if rank == 0:
            scores[test_set["name"]] = score_predictions(test_set["scorer"], predictions, records)
            _write_predictions(output_dir / "predictions" / f"{test_set['name']}.jsonl", predictions, records)
    if rank == 0:
        write_json(output_dir / "scores.json", scores)


def read_records(dataset: str, data_args) -> list[dict]:
    """Reads the records of a local test set, `.json` or `.jsonl`."""
    (attributes,) = get_dataset_list([dataset], data_args.dataset_dir)
    file = Path(data_args.dataset_dir) / attributes.dataset_name
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return read_json(file)


def _encode(records: list[dict], dataset: str, encoder: UnsupervisedDatasetProcessor) -> list[dict]:
    """Turns records into the host's features; a record with an image but no place for it gets one in front."""
    (attributes,) = get_dataset_list([dataset], encoder.data_args.dataset_dir)
    convert = get_dataset_converter(attributes.formatting, attributes, encoder.data_args)
    columns = [column for column in vars(attributes).values() if isinstance(column, str)]
    aligned = [convert({**dict.fromkeys(columns), **record}) for record in records]
    image_token = "<image>"  # noqa: S105 - the host's placeholder
    for row in aligned:
        if row["_images"] and not any(image_token in message["content"] for message in row["_prompt"]):
            row["_prompt"][0]["content"] = f"{image_token}\n{row['_prompt'][0]['content']}"
    encoded = encoder.preprocess_dataset({key: [row[key] for row in aligned] for key in aligned[0]})
    features = [dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)]
    if len(features) != len(records):
        raise ValueError(
            f"{len(records) - len(features)} of {len(records)} records of {dataset} have no single question."
        )
    return features


def _batches(features: list[dict], collator, size: int) -> Iterator[dict[str, torch.Tensor]]:
    for start in range(0, len(features), size):
        batch = collator([dict(feature) for feature in features[start : start + size]])
        batch.pop("labels")
        yield batch


def _write_predictions(file: Path, predictions: list[str], records: list[dict]) -> None:
    with replacing(file) as temporary, temporary.open("w", encoding="utf-8") as lines:
        for prediction, record in zip(predictions, records, strict=True):
            lines.write(json.dumps({**record, "prediction": prediction}, ensure_ascii=False) + "\n")

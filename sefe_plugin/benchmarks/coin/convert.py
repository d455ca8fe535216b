"""Turn CoIN's published files into datasets for LLaMA-Factory; images stay where they are."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from sefe_plugin.answers.text_vqa import text_vqa_answers
from sefe_plugin.benchmarks.coin.images import ImageCheck
from sefe_plugin.benchmarks.coin.records import to_test_row, to_train_row
from sefe_plugin.benchmarks.coin.sources import IMAGES, TEXT_VQA_ANSWERS, VARIANTS, find_annotations
from sefe_plugin.benchmarks.coin.tasks import MANIFEST_FILE, MANIFEST_VERSION, TASKS, dataset_entries
from sefe_plugin.data.reader import read_array
from sefe_plugin.data.test_sets import listed_faults
from sefe_plugin.evaluation.scorers import SCORERS
from sefe_plugin.files import file_digest, read_json, replacing, write_json, write_text
from sefe_plugin.json_lines import json_line


#: Lists every record and image at fault: task, number of the record or path, and reason, separated by tabs.
FAULTS_FILE = "faults.tsv"

_BATCH = 2048
_SCORER = {task.name: task.scorer for task in TASKS}


def prepare_coin(
    source: Path,
    out: Path,
    *,
    images: Path | None = None,
    variant: str = "original",
    max_test: int | None = None,
    train_share: float = 1.0,
    seed: int = 42,
    skip_broken: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict:
    """Write `<Task>/train.jsonl` and `<Task>/test.jsonl` of the eight tasks, `dataset_info.json` and the manifest.

    Samples of a subset are drawn without replacement, by task and seed alone, and keep their order. The manifest is
    written last: a folder without it is not complete.

    Args:
        source: Folder with the published files (`find_annotations`).
        out: Where to write.
        images: Folder where the records' relative image paths lead; the source by default.
        variant: A key of `VARIANTS`.
        max_test: Test records of each task at most (SEFE's tables fit 2000), all by default.
        train_share: Share of each task's training records, in (0, 1].
        seed: Draws the subsets.
        skip_broken: Leave out the records that are at fault, or whose image is missing or broken, instead of stopping.
        say: Given one line for every finished file.

    Returns:
        The manifest.

    Raises:
        ValueError: If files are missing, records are not as published, no answer to test records would be right, or
            images are at fault; names all of them.
    """
    if max_test is not None and max_test < 1:
        raise ValueError(f"the number of test records must be at least 1; got {max_test}.")
    if not 0 < train_share <= 1:
        raise ValueError(f"the share of training records must be in (0, 1]; got {train_share}.")
    if out.resolve() == source.resolve():
        raise ValueError(f"{out} holds the published files; write to another folder.")
    annotations = find_annotations(source, variant)
    images = (images or source).absolute()
    answers = _read_answers([images / TEXT_VQA_ANSWERS, source / TEXT_VQA_ANSWERS], say)
    (out / MANIFEST_FILE).unlink(missing_ok=True)
    check, faults, tasks = ImageCheck(images), {}, {}
    bad: dict[tuple[str, str], dict[int, str]] = {}
    for task in TASKS:
        tasks[task.name] = {}
        for split, file in annotations[task.name]._asdict().items():
            rng = random.Random(f"CoIN {task.name} {split} {seed}")
            share = train_share if split == "train" else 1.0
            chosen = _choose(file, share, max_test if split == "test" else None, rng)
            broken = bad[task.name, split] = {}
            records = _checked(task.name, split, file, chosen, answers, broken)
            found: dict[str, str] = {}
            written = _write_rows(out / task.name / f"{split}.jsonl", _whole(records, check, found))
            faults |= {(task.name, path): fault for path, fault in found.items()}
            total, count = written.total() + len(broken), written["written"]
            tasks[task.name][split] = {
                "source": str(file.absolute()),
                "sha256": file_digest(file),
                "chosen": total,
                "written": count,
            }
            say(f"{task.name} {split}: {count} records" + (f", {total - count} left out" if total > count else ""))
            if not count and (skip_broken or not (found or broken)):
                raise ValueError(f"{file} has no record to write.")
    (out / FAULTS_FILE).unlink(missing_ok=True)
    lines = [
        f"{task}\t{split} record {number}\t{fault}\n"
        for (task, split), broken in bad.items()
        for number, fault in broken.items()
    ]
    lines += [f"{task}\t{path}\t{fault}\n" for (task, path), fault in faults.items()]
    if lines:
        write_text(out / FAULTS_FILE, "".join(lines))
    if lines and not skip_broken:
        files = {annotations[task]._asdict()[split]: broken for (task, split), broken in bad.items() if broken}
        message = [f"{file}: {listed_faults(broken)}." for file, broken in files.items()]
        message += _image_lines(faults, images) if faults else []
        message.append(
            f"All are listed in {out / FAULTS_FILE}. Mend them, or leave their records out with --skip-broken."
        )
        raise ValueError("\n".join(message))
    write_json(out / "dataset_info.json", dataset_entries(lambda task, split: f"{task}/{split}.jsonl"))
    manifest = {
        "version": MANIFEST_VERSION,
        "variant": variant,
        "origin": VARIANTS[variant].origin,
        "images": str(images),
        "max_test": max_test,
        "train_share": train_share,
        "seed": seed,
        "skip_broken": skip_broken,
        "tasks": tasks,
    }
    write_json(out / MANIFEST_FILE, manifest)
    return manifest


def _read_answers(candidates: list[Path], say: Callable[[str], None]) -> dict[str, list[str]]:
    """Read TextVQA's ten answers to each test question."""
    file = next((file for file in candidates if file.is_file()), None)
    if file is None:
        say(
            f"note: {TEXT_VQA_ANSWERS} (textvqa.org, CC BY 4.0) was not found, so TextVQA's test records have no ten "
            "answers; `sefe score TextVQA` needs them."
        )
        return {}
    try:
        return {str(entry["question_id"]): text_vqa_answers(entry) for entry in read_json(file)["data"]}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not TextVQA's file of answers: {error!r}.") from error


def _choose(file: Path, share: float, limit: int | None, rng: random.Random) -> set[int] | None:
    """Draw the positions of the records to keep; None for all, which saves counting them."""
    if share == 1 and limit is None:
        return None
    total = sum(1 for _ in read_array(file))
    count = max(1, round(share * total)) if limit is None else min(limit, total)
    return set(rng.sample(range(total), min(count, total)))


def _checked(
    task: str, split: str, file: Path, chosen: set[int] | None, answers: dict, broken: dict[int, str]
) -> Iterator[dict]:
    """Yield the chosen records that are as published and can be scored; adds the others to `broken`, from 1."""
    for number, record in enumerate(read_array(file), start=1):
        if chosen is None or number - 1 in chosen:
            try:
                if split == "train":
                    row = to_train_row(task, record)
                else:
                    row = to_test_row(task, record, answers)
                    SCORERS[_SCORER[task]].check(row)
            except ValueError as error:
                broken[number] = str(error)
            else:
                yield row


def _whole(records: Iterable[dict], check: ImageCheck, found: dict[str, str]) -> Iterator[tuple[dict, bool]]:
    """Yield the records with whether their image is whole; adds the images at fault to `found`."""
    records = iter(records)
    while batch := list(islice(records, _BATCH)):
        found |= check(record["image"] for record in batch if record["image"] is not None)
        for record in batch:
            yield record, record["image"] not in found


def _write_rows(file: Path, rows: Iterable[tuple[dict, bool]]) -> Counter:
    """Write the whole records as JSONL, the first with an image ahead of all without one.

    `datasets` infers the columns from the first records: without a path among them it takes `image` for empty.
    """
    counts: Counter = Counter()
    waiting: list[dict] | None = []
    with replacing(file) as temporary, temporary.open("wb") as lines:
        for record, whole in rows:
            counts["written" if whole else "left out"] += 1
            if not whole:
                continue
            ready = [record]
            if waiting is not None:
                if record["image"] is None:
                    waiting.append(record)
                    continue
                ready, waiting = [record, *waiting], None
            lines.writelines(map(json_line, ready))
        lines.writelines(map(json_line, waiting or ()))
    return counts


def _image_lines(faults: dict[tuple[str, str], str], images: Path) -> list[str]:
    lines = [f"images below {images} are missing or broken; name their folder with --images, or put them in place:"]
    for task in TASKS:
        own = {path: fault for (name, path), fault in faults.items() if name == task.name}
        if own:
            missing = sum(fault == "missing" for fault in own.values())
            example, fault = next(iter(own.items()))
            lines.append(
                f"  - {task.name}: {missing} missing, {len(own) - missing} broken, such as {example} ({fault}). "
                f"They come from: {IMAGES[task.name]}."
            )
    return lines

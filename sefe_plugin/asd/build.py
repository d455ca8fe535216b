"""Answer Style Diversification ahead of time: a dataset file in, the same file with rewritten samples out."""

import os
import random
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tqdm import tqdm

from sefe_plugin.asd.assembly import Texts, assemble
from sefe_plugin.asd.dataset import ORIGIN, Dataset
from sefe_plugin.asd.diversify import check_ratio, rewrites
from sefe_plugin.asd.pool import AnswerPool
from sefe_plugin.asd.rules import check_native, native_style
from sefe_plugin.asd.writer.generators import Generator
from sefe_plugin.asd.writer.questions import Chosen, Entry, Request, group, needs_model, write_request
from sefe_plugin.asd.writer.templates import Prompts, Task
from sefe_plugin.data.records import Replacements, write_replaced
from sefe_plugin.data.sample import Sample
from sefe_plugin.files import file_digest, read_json, shipped_folder, write_json


#: Who wrote a sample's texts, where that is no model.
RULES = "rules"
#: Largest share of a model's samples that may go without its texts.
MAX_FALLBACK = 0.05


@dataclass
class Summary:
    """What a build did.

    Attributes:
        samples: Size of the dataset.
        native_style: Its own style; None where nothing was to be rewritten.
        styles: For each other style, how many samples have texts by "rules" or by the "model", by rules as a
            "fallback" for a model that failed, or were "left" as they are because no rule can stand in for it.
        failures: Why the model's texts are missing: reason -> number of samples.
        asked: How many replies the model gave in this process.
    """

    samples: int
    native_style: str | None = None
    styles: dict[str, dict[str, int]] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    asked: int = 0

    def count(self, *authors: str) -> int:
        """Count the samples of all styles whose texts are by one of these."""
        return sum(made.get(author, 0) for made in self.styles.values() for author in authors)


def build(
    dataset: Dataset,
    target: Path,
    ratio: float,
    seed: int,
    *,
    task: Task | None = None,
    generator: Generator | None = None,
    templates: Path | None = None,
    tries: int = 3,
    max_fallback: float = MAX_FALLBACK,
    scored_as: str | None = None,
) -> Summary:
    """Write a copy of a dataset file with a share of the samples in other answer styles.

    The samples and their styles are those of `diversify`; by rule alone, so is the result. A rewritten record has a
    field "asd" with its style, the task's own, question and answer before, and who wrote its texts; all other bytes of
    the file stay as they are. Beside the target lie a manifest and, with a model, the journal of its replies: after an
    interruption the same build goes on from there and ends with the same file.

    Args:
        dataset: The samples.
        target: The file to write, whole or not at all; the manifest is written after it.
        ratio: X, share of the samples to rewrite, in [0, 1].
        seed: Seed of the choice and of the rewriting.
        task: The task's description; None recognises what it can.
        generator: The model that writes what rules cannot; None leaves all to rules.
        templates: Folder of the prompts; None takes the shipped one.
        tries: How many replies a request may take before rules step in.
        max_fallback: Largest share of the samples that a model is to write which may go without its texts; beyond it
            nothing is written but the journal, from which the same build goes on.
        scored_as: The style of the answers that the task's scorer reads, None where it is not known.

    Returns:
        What was done.

    Raises:
        ValueError: For arguments that do not fit, and datasets that cannot be rewritten; the target is not touched.
        ConnectionError: Where the model gives no replies; what it gave before is kept.
    """
    check_ratio(ratio)
    if not 0 <= max_fallback <= 1:
        raise ValueError(f"max_fallback must be a share in [0, 1], got {max_fallback}; write 5 percent as 0.05")
    for name, value in {"tries": tries, "concurrency": generator.concurrency if generator else 1}.items():
        if value < 1:
            raise ValueError(
                f"{name} must be at least 1, got {value}: the model would never be asked; without a model, rules "
                "write all texts"
            )
    if target.resolve() == dataset.records.path.resolve():
        raise ValueError(f"{target} is the dataset itself; choose another file for the result")
    summary = Summary(len(dataset))
    with Replacements(len(dataset), target.parent) as replaced:
        if round(ratio * len(dataset)):
            rewriting = _Rewriting(dataset, replaced, seed, task or Task(), scored_as)
            if generator is None:
                rewriting.by_rule(ratio)
            else:
                prompts = Prompts(templates or shipped_folder("data_templates") / "asd", rewriting.task)
                chosen = rewriting.by_rule(ratio, prompts)
                journal = target.with_name(f"{target.name}.journal.jsonl")
                summary.failures, summary.asked = rewriting.by_model(chosen, generator, prompts, tries, journal)
            summary.native_style, summary.styles = rewriting.task.native_style, rewriting.counts()
        _check_fallback(summary, max_fallback, target)
        write_replaced(dataset.records, replaced, target)
    manifest = {
        "source": {"name": dataset.records.path.name, "sha256": file_digest(dataset.records.path)},
        # From the result's folder, so that a tree may move as a whole.
        "media_dir": Path(os.path.relpath(dataset.media_dir, target.parent)).as_posix(),
        "result": {"name": target.name, "sha256": file_digest(target)},
        "ratio": ratio,
        "seed": seed,
        "generator": generator.model if generator and summary.count("model") else RULES,
        # The number of replies depends on how often the build was interrupted.
        **{name: value for name, value in asdict(summary).items() if name != "asked"},
    }
    write_json(_manifest_of(target), manifest)
    return summary


def built_media_dir(file: Path) -> Path | None:
    """Return the folder that the images of a built file lie in, None where no manifest names one that exists."""
    manifest = _manifest_of(file)
    media_dir = read_json(manifest).get("media_dir") if manifest.is_file() else None
    return file.parent / media_dir if media_dir and (file.parent / media_dir).is_dir() else None


def _check_fallback(summary: Summary, most: float, target: Path) -> None:
    """Refuse a result whose texts are not those of the model that was asked.

    Raises:
        ValueError: With the share and the reasons.
    """
    without, wanted = summary.count("fallback", "left"), summary.count("fallback", "left", "model")
    if without <= most * wanted:
        return
    reasons = ", ".join(f"{reason} ({count})" for reason, count in summary.failures.items())
    raise ValueError(
        f"{without} of {wanted} samples that the model was to write go without its texts, a share of "
        f"{without / wanted:.2g} where --max-fallback allows {most:g}: {reasons}. {target} is not written. The "
        "replies are kept, so the same command goes on from here: mend the model or the prompts, raise --tries, or "
        "accept more with --max-fallback"
    )


class _Rewriting:
    """The samples of one build, rewritten first by rule and then by a model."""

    def __init__(self, dataset: Dataset, replaced: Replacements, seed: int, task: Task, scored_as: str | None):
        self.dataset, self.replaced, self.seed = dataset, replaced, seed
        self.task = task.resolved(task.native_style or native_style(dataset, scored_as))
        self.pool = AnswerPool(dataset, self.task.native_style, scored_as)
        self._counts: dict[str, Counter[str]] = {}

    def counts(self) -> dict[str, dict[str, int]]:
        """Count samples by style and by who wrote their texts."""
        return {style: {author: n for author, n in counts.items() if n} for style, counts in self._counts.items()}

    def by_rule(self, ratio: float, prompts: Prompts | None = None) -> list[Chosen]:
        """Rewrite a share of the samples by rule, and return those for which a model has a prompt."""
        native = self.task.native_style
        if prompts is None:
            check_native(native)
        chosen = []
        steps = rewrites(len(self.dataset), self.dataset.read, ratio, self.seed, self.pool)
        for made in tqdm(steps, total=round(ratio * len(self.dataset)), unit=" samples", desc="Rewriting"):
            if made.sample is not None:
                self._put(made.index, made.style, made.sample, RULES)
            author = RULES
            if prompts and needs_model(made.item, made.style, made.truth, prompts.styles, native):
                chosen.append(Chosen(made.index, made.style, made.truth))
                author = "left" if made.sample is None else "fallback"
            self._counts.setdefault(made.style, Counter())[author] += 1
        return chosen

    def by_model(
        self, chosen: list[Chosen], generator: Generator, prompts: Prompts, tries: int, journal_file: Path
    ) -> tuple[dict[str, int], int]:
        """Put a model's texts in the place of the rules'; return the failures and the number of new replies."""
        # These need packages that rules do without.
        from sefe_plugin.asd.writer.interview import Interview
        from sefe_plugin.asd.writer.journal import Journal

        def write(samples: list[Chosen]) -> Request:
            items = [self.pool.item(self.dataset.read(sample.index)) for sample in samples]
            records = [self.dataset.record(sample.index) for sample in samples]
            images = tuple(self.dataset.media_dir / image for image in self.dataset.images(samples[0].index))
            return write_request(samples, items, records, images, self.task, prompts)

        def accept(sample: Chosen, entry: Entry, texts: Texts) -> None:
            rng = random.Random(f"{self.seed}/{sample.index}")
            new = assemble(entry.item, sample.style, texts, rng, sample.truth)
            self._put(sample.index, sample.style, new, generator.model)
            counts = self._counts[sample.style]
            counts["fallback" if counts["fallback"] else "left"] -= 1
            counts["model"] += 1

        groups = group(chosen, self.dataset.images if self.task.per_image else None)
        with Journal(journal_file) as journal:
            interview = Interview(generator, journal, prompts, self.task.replies, tries, accept)
            interview.run(groups, write)
        return dict(sorted(interview.failures.items())), interview.asked

    def _put(self, index: int, style: str, sample: Sample, author: str) -> None:
        record, old = self.dataset.record(index), self.dataset.read(index)
        origin = {
            "native_style": self.task.native_style,
            "style": style,
            "question": old.question,
            "answer": old.answer,
            "generator": author,
        }
        self.replaced[index] = {**self.dataset.layout.write(record, sample), ORIGIN: origin}


def _manifest_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.manifest.json")

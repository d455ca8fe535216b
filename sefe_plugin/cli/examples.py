"""One example for each command, shown at the end of its help."""

import argparse


#: The words of a command -> how it is called.
EXAMPLES = {
    "doctor": "sefe doctor",
    "init": "sefe init .",
    "new": "sefe new mine.yaml",
    "plan": "sefe plan mine.yaml --gpus 1",
    "status": "sefe status runs/mine",
    "report": "sefe report runs/mine",
    "score": "sefe score runs/mine --scorer charts=class_name",
    "verify": "sefe verify runs/mine",
    "export": "sefe export runs/mine --out models/mine",
    "clean": "sefe clean runs/mine",
    "compare": "sefe compare a.yaml b.yaml --seeds 3 --out runs/ab",
    "asd": "sefe asd build --dataset charts_train --out data/charts_x20.json",
    "asd build": "sefe asd build --dataset charts_train --out data/charts_x20.json",
    "asd preview": "sefe asd preview --dataset data/charts_x20.json --out x20.html",
    "keys": "sefe keys",
    "completion": "sefe completion bash",
    "prepare": "sefe prepare ucit downloads/UCIT --out data/ucit",
    "judge": "sefe judge GQA runs/coin/predictions/GQA.jsonl --model Qwen1.5-32B-Chat",
    "smol": "sefe smol fetch models/smol",
    "smol fetch": "sefe smol fetch models/smol",
    "smol llava": "sefe smol llava models/smol-llava --projector projector.safetensors",
    "smol projector": "sefe smol projector projector.safetensors --steps 800",
    "minicoin": "sefe minicoin data data/minicoin",
    "minicoin data": "sefe minicoin data data/minicoin",
    "minicoin build": "sefe minicoin build base",
    "minicoin table": "sefe minicoin table --out runs/table --seeds 1 2 3",
}


def add_examples(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> None:
    """Put its example at the end of each command's help.

    Args:
        parser: Of the program, or of the command that `words` name.
        words: Of the command so far.
    """
    if example := EXAMPLES.get(" ".join(words)):
        parser.epilog = f"example: {example}"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                add_examples(command, (*words, name))

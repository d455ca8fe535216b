"""The configuration of a RegLoRA adapter: LoRA's options and RegLoRA's own, and how both are kept on disk."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import RemoteEntryNotFoundError
from peft import LoraConfig
from peft.utils import CONFIG_NAME

from sefe_plugin.files import read_json, write_json
from sefe_plugin.methods.peft_types import add_type
from sefe_plugin.methods.reglora.options import AdapterOptions
from sefe_plugin.options import option_errors, own_options


REGLORA = add_type("REGLORA")

#: Written beside PEFT's ``adapter_config.json``.
OPTIONS_FILE = "reglora_config.json"

#: Options of LoRA under which the weight change of a matrix is not B A, and why.
_NOT_BA = {
    "use_dora": "DoRA rescales every row of the adapted weight by a learned magnitude",
    "use_qalora": "QA-LoRA pools the input in front of A",
    "alora_invocation_tokens": "activated LoRA changes the weight for some tokens only",
    "target_parameters": "LoRA on bare parameters keeps one pair of factors for several experts",
}

#: Initialisations of LoRA that move a part of the base weight into B A.
_MOVES_BASE_WEIGHT = ("pissa", "olora", "corda", "loftq")


@dataclass
class RegLoraConfig(AdapterOptions, LoraConfig):
    """Configure RegLoRA (SEFE, arXiv 2505.02486, section on RegLoRA).

    While a task is trained, lambda * R is added to its objective. R is the mean over the adapted matrices m of the
    reduced absolute weight change |(B A)_m| at the key elements of the earlier tasks; a key element of a task is one
    of the top M of |B A| of a matrix at the end of that task. B A is taken without the factor alpha / r.

    On disk the adapter is a plain LoRA: `save_pretrained` writes ``adapter_config.json`` with ``peft_type`` LORA and
    these four options to ``reglora_config.json`` in the same folder.

    Its options are those of `LoraConfig` and of `AdapterOptions`, which are recipe keys of the same names:

    - ``reglora_weight``: lambda, a finite number >= 0.
    - ``reglora_key_ratio``: M as a share in (0, 1].
    - ``reglora_reduction``: ``official_mean``, as in the official code: the mean over the key elements of all earlier
      tasks together, an element chosen by n tasks counting n times. ``per_task_sum``, as in the paper's sum over
      tasks: the sum over earlier tasks of each task's own mean. The two are equal with one earlier task; with t of
      them ``per_task_sum`` is t times as large.
    - ``reglora_selection``: ``top``, as in the paper. ``random``, a control of the choice: as many elements of every
      matrix, drawn uniformly anew for every task (see `draw_key_elements`). The control of having a choice at all,
      plain L1 on the whole of dW, is ``reglora_key_ratio=1.0``.

    Raises:
        ValueError: If an option is outside its range, if an option of LoRA makes the weight change of a matrix
            something other than B A, or if ``bias`` is not "none" (biases would be missing from the saved adapter).

    Example:
        >>> config = RegLoraConfig(r=8, target_modules=["q_proj", "v_proj"], reglora_key_ratio=0.05)
        >>> config.reglora_weight, config.reglora_key_ratio, config.reglora_reduction
        (2500.0, 0.05, 'official_mean')
    """

    def __post_init__(self):
        """Check every option; mark the configuration as RegLoRA's."""
        super().__post_init__()
        self.peft_type = REGLORA
        if errors := option_errors(AdapterOptions, vars(self)):
            raise ValueError(" ".join(errors.values()))
        if self.bias != "none":
            raise ValueError(f"RegLoRA trains no biases; got `bias={self.bias!r}`. Leave `bias` at 'none'.")
        for option, reason in _NOT_BA.items():
            if vars(self)[option]:
                raise ValueError(f"RegLoRA penalises the weight change B A, but {reason}. Leave `{option}` unset.")
        if str(self.init_lora_weights).lower().startswith(_MOVES_BASE_WEIGHT):
            raise ValueError(
                f"RegLoRA penalises the weight change B A, but `init_lora_weights={self.init_lora_weights!r}` moves a "
                "part of the base weight into it. Use True, 'gaussian', 'orthogonal' or 'eva'."
            )

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write a plain LoRA's ``adapter_config.json`` and RegLoRA's options beside it.

        Args:
            save_directory: The adapter's folder; made if absent.
            **kwargs: Passed on to `LoraConfig.save_pretrained`.
        """
        plain = LoraConfig(**{f.name: vars(self)[f.name] for f in fields(LoraConfig)})
        plain.save_pretrained(save_directory, **kwargs)
        write_json(Path(save_directory, OPTIONS_FILE), {name: vars(self)[name] for name in _OPTIONS})

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str, subfolder: str | None = None, **kwargs: Any
    ) -> "RegLoraConfig":
        """Load the configuration of an adapter saved by RegLoRA.

        Args:
            pretrained_model_name_or_path: The adapter's folder, or its repository on the Hugging Face Hub.
            subfolder: Where the adapter lies therein.
            **kwargs: Passed on to `LoraConfig.from_pretrained`, such as ``revision`` and ``token``.

        Raises:
            ValueError: If there is no adapter, or if it was not saved by RegLoRA.
        """
        if not Path(pretrained_model_name_or_path, subfolder or "", CONFIG_NAME).is_file():
            # PEFT fetches `adapter_config.json` alone; this comes to lie beside it, where `from_json_file` looks.
            download, *_ = cls._split_kwargs(kwargs)
            try:
                hf_hub_download(pretrained_model_name_or_path, OPTIONS_FILE, subfolder=subfolder, **download)
            except RemoteEntryNotFoundError:
                pass  # `from_json_file` says that the adapter was not saved by RegLoRA
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"'{pretrained_model_name_or_path}' is no folder with {CONFIG_NAME}, and {OPTIONS_FILE} cannot be "
                    f"fetched from a repository of that name ({error}). Check the name and the connection."
                ) from error
        return super().from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs)

    @classmethod
    def from_json_file(cls, path_json_file: str, **kwargs) -> dict[str, Any]:
        """Read a plain LoRA's ``adapter_config.json`` and RegLoRA's options beside it.

        `from_pretrained` calls this with the file it has found.

        Raises:
            ValueError: If ``reglora_config.json`` is not beside it or does not hold exactly RegLoRA's options.
        """
        file = Path(path_json_file).with_name(OPTIONS_FILE)
        if not file.is_file():
            raise ValueError(
                f"{file}: not found, so the adapter in this folder was not saved by RegLoRA. Load it as a plain LoRA, "
                "or build a RegLoraConfig with the options you want."
            )
        try:
            options = read_json(file)
        except ValueError as error:
            raise ValueError(f"{file}: not valid JSON ({error}). Save the adapter again.") from error
        if not isinstance(options, dict) or sorted(options) != sorted(_OPTIONS):
            raise ValueError(f"{file}: must hold exactly the keys {', '.join(_OPTIONS)}; got {options!r}")
        return {**super().from_json_file(path_json_file, **kwargs), **options, "peft_type": REGLORA}


_OPTIONS = tuple(own_options(AdapterOptions))

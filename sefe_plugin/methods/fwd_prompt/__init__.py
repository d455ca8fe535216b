"""Fwd-Prompt (arXiv 2401.09181): a pool of prompts in front of a frozen model, moved in chosen directions only.

`method` is what recipes name. The names below are its tuner type in PEFT, loaded on first use; loading them adds the
type ``FWD_PROMPT`` to PEFT. `PeftModel.from_pretrained` loads a saved pool from then on.
"""

__all__ = ["FwdPromptConfig", "FwdPromptModel"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import sefe_plugin.methods.fwd_prompt.tuner as module

    module.register()  # again, if it was taken back
    return getattr(module, name)

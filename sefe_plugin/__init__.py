"""Continual learning for LLaMA-Factory, PEFT and TRL: RegLoRA, Answer Style Diversification, task sequences.

Names load on first use, so that importing the package costs nothing and does nothing.
"""

_PUBLIC = {
    "FwdPromptConfig": "sefe_plugin.methods.fwd_prompt",
    "FwdPromptModel": "sefe_plugin.methods.fwd_prompt",
    "MoeLoraConfig": "sefe_plugin.methods.moelora",
    "MoeLoraModel": "sefe_plugin.methods.moelora",
    "RegLoraConfig": "sefe_plugin.methods.reglora",
    "RegLoraModel": "sefe_plugin.methods.reglora",
    "SefeCallback": "sefe_plugin.methods.reglora",
    "diversify": "sefe_plugin.asd",
}

__all__ = [*sorted(_PUBLIC)]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)

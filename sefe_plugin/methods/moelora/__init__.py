"""MoELoRA (CoIN, arXiv 2403.08350): a LoRA of several experts, which a router weighs anew for every token.

`method` is what recipes name. The names below are its tuner type in PEFT, loaded on first use; loading them adds the
type ``MOELORA`` to PEFT. `PeftModel.from_pretrained` loads a saved adapter from then on.
"""

__all__ = ["MoeLoraConfig", "MoeLoraModel"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import sefe_plugin.methods.moelora.tuner as module

    module.register()  # again, if it was taken back
    return getattr(module, name)

"""RegLoRA (SEFE, arXiv 2505.02486): LoRA with a penalty on the key elements of earlier tasks.

`method` is what recipes name. The names below are its tuner type in PEFT, loaded on first use; loading them adds the
type ``REGLORA`` to PEFT and touches nothing that exists there: adapters of every other type load, train and save as
before.
"""

_TUNER = ("RegLoraConfig", "RegLoraModel", "find_reglora_model")

__all__ = [*_TUNER, "SefeCallback", "find_key_elements"]


def __getattr__(name: str):
    if name in _TUNER:
        import sefe_plugin.methods.reglora.tuner as module

        module.register()  # again, if it was taken back
    elif name == "find_key_elements":
        import sefe_plugin.methods.reglora.key_elements as module
    elif name == "SefeCallback":
        import sefe_plugin.methods.reglora.callback as module
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(module, name)

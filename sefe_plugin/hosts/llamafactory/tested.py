"""The versions that the tests passed with, and why others are excluded; docs/versions.md has the whole table."""

#: Package -> the oldest and the newest version with which a sequence of two tasks ran (docs/versions.md).
TESTED = {
    "llamafactory": ("0.9.5", "0.9.5"),
    "torch": ("2.4.0", "2.11.0"),
    "torchvision": ("0.19.0", "0.26.0"),
    "torchaudio": ("2.4.0", "2.11.0"),
    "transformers": ("5.5.0", "5.5.4"),
    "peft": ("0.18.0", "0.18.1"),
    "accelerate": ("1.3.0", "1.11.0"),
    "trl": ("0.18.0", "0.24.0"),
    "datasets": ("3.0.0", "4.0.0"),
    "bitsandbytes": ("0.50.2", "0.50.2"),
    "deepspeed": ("0.19.8", "0.19.8"),
}

#: Package -> versions that setup.cfg excludes -> why.
EXCLUDED = {
    "torch": {
        "==2.9.*": "its Conv3D fails, so that LLaMA-Factory refuses Qwen2.5-VL and its kind",
        ">=2.12": "torchaudio, which LLaMA-Factory imports at start, has no release for it",
    },
    "transformers": {"==5.6.0": "it cannot load adapters with the peft that LLaMA-Factory asks for"},
}

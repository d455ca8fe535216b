"""The arguments of trainings of a few steps on the CPU."""

from pathlib import Path

from transformers import TrainingArguments


def short_arguments(folder: Path | str, steps: int) -> TrainingArguments:
    """Return the arguments of a training that writes and reports nothing by itself."""
    return TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )

"""What a sequence writes and says holds no secret of its environment."""

import pytest


#: Where programs look for secrets, each with a value that is nowhere else.
SECRETS = {
    name: f"sentinel-{name.lower()}"
    for name in (
        "HF_TOKEN",
        "WANDB_API_KEY",
        "OPENAI_API_KEY",
        "SWANLAB_API_KEY",
        "MODELSCOPE_API_TOKEN",
        "SEFE_SECRET",
    )
}


@pytest.fixture
def sentinels(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def test_no_file_and_no_line_of_a_sequence_holds_a_secret(sentinels, train_here, small_recipe, tmp_path, capfd):
    recipe = small_recipe(tmp_path, 1, num_train_epochs=1, save_strategy="steps", save_steps=4)
    train_here(recipe)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"manifest.json", "task.yaml", "asd.jsonl", "report.json", "training_args.bin", "trainer_log.jsonl"} <= {
        file.name for file in files
    }
    for file in files:
        content = file.read_bytes()
        assert not [name for name, value in SECRETS.items() if value.encode() in content], file
    said = "".join(capfd.readouterr())
    assert not [name for name, value in SECRETS.items() if value in said]

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from sefe_plugin import SefeCallback
from sefe_plugin.methods.reglora import RegLoraConfig, RegLoraModel, find_reglora_model
from sefe_plugin.methods.reglora.files import read_key_elements
from sefe_plugin.methods.reglora.method import PENALTY_LOG


@pytest.fixture(scope="module")
def tokenizer():
    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(60))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def questions(task):
    """Questions of different lengths whose answer is the task's own word."""
    return Dataset.from_list(
        [
            {"prompt": " ".join(f"w{(i + 3 * j) % 50}" for j in range(2 + i % 4)), "completion": f" w{50 + task}"}
            for i in range(6)
        ]
    )


def options(folder, **changes):
    return SFTConfig(
        str(folder),
        **{
            "per_device_train_batch_size": 2,
            "max_length": 32,
            "bf16": False,
            "gradient_checkpointing": False,
            "use_cpu": True,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            **changes,
        },
    )


@pytest.mark.parametrize("loss_type", ["nll", "dft"])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_penalty_has_the_weight_lambda(
    tmp_path, tokenizer, tiny_reglora, penalty_weight, key_element_files, loss_type, accumulation
):
    def make_trainer(callbacks):
        model = tiny_reglora(reglora_key_ratio=0.1, reglora_weight=50.0)
        find_reglora_model(model).load_key_elements(key_element_files)
        args = options(
            tmp_path,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=accumulation,
            num_train_epochs=1,
            learning_rate=0.0,
            max_grad_norm=0.0,
            loss_type=loss_type,
            logging_strategy="no",
        )
        return SFTTrainer(model, args, train_dataset=questions(0), processing_class=tokenizer, callbacks=callbacks)

    steps, error = penalty_weight(make_trainer)
    assert steps == 6 // accumulation
    assert error < 1e-5  # the difference of two fp32 gradients


def test_two_tasks_in_a_row(tmp_path, tokenizer, tiny_llama):
    model, files = tiny_llama(), []
    for task in range(2):
        trainer = SFTTrainer(
            model,
            options(tmp_path / f"task{task}", learning_rate=0.02, num_train_epochs=10, logging_steps=1),
            train_dataset=questions(task),
            processing_class=tokenizer,
            peft_config=RegLoraConfig(
                r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"
            ),
            callbacks=[SefeCallback(files)],
        )
        assert type(trainer.model.base_model) is RegLoraModel
        trainer.train()
        logs = [entry for entry in trainer.state.log_history if "loss" in entry]
        assert len(logs) == 30
        assert logs[-1]["loss"] < logs[0]["loss"]
        penalties = [entry[PENALTY_LOG] for entry in logs]
        if task == 0:
            assert penalties == [0.0] * 30
        else:
            assert penalties[0] == 0  # a fresh adapter changes nothing yet
            assert all(penalty > 0 for penalty in penalties[1:])
        trainer.save_model()
        files.append(tmp_path / f"task{task}" / "key_elements.safetensors")
        read_key_elements(files[-1])
        model = trainer.model.merge_and_unload()
    assert torch.isfinite(model(torch.arange(4, 14)[None]).logits).all()


@pytest.mark.parametrize("with_callback", [False, True])
def test_a_training_without_the_callback_is_told(tmp_path, tokenizer, tiny_llama, caplog, with_callback):
    trainer = SFTTrainer(
        tiny_llama(),
        options(tmp_path, learning_rate=0.02, num_train_epochs=1),
        train_dataset=questions(0),
        processing_class=tokenizer,
        peft_config=RegLoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"),
        callbacks=[SefeCallback()] * with_callback,
    )
    trainer.train()
    warned = [record for record in caplog.records if "is trained as plain LoRA" in record.getMessage()]
    assert len(warned) == (not with_callback)
    assert (tmp_path / "key_elements.safetensors").exists() == with_callback

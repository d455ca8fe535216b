"""Tiny models made from a configuration, and the measurement of a penalty's weight. Nothing here needs a network."""

import os
import shutil
import subprocess
import sysconfig


if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers share the cores
os.environ.update(
    HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false"
)

from pathlib import Path

import browser as headless
import pytest
from warm_python import warm_environment, warm_plain_python


TESTS = Path(__file__).parent
#: What is long begins first, so that no worker is left alone with it at the end.
LONG = ("hosts", "methods", "faults", "benchmarks", "test_recipes.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.relative_to(TESTS).parts[0] not in LONG)


VOCABULARY = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(60))]


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """The environment of a host process: offline, on the CPU, with this Python's scripts first."""
    scripts = sysconfig.get_paths()["scripts"]
    return {key: value for key, value in os.environ.items() if not key.startswith("SEFE_")} | {
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": "1",  # another worker of pytest has the other core
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",  # the host starts `torchrun` by name
    }


@pytest.fixture(scope="session")
def warm(environment):
    """The environment of processes that need not load the host: `python`, `llamafactory-cli`, `torchrun` are forks."""
    with warm_environment(environment) as found:
        yield found


@pytest.fixture(scope="session")
def plain_python():
    """A Python in which the plugin is switched off and the libraries are loaded: for SEFE_PLUGIN_DISABLE=1 alone."""
    with warm_plain_python() as program:
        yield program


@pytest.fixture(scope="session")
def browser():
    """A real Chromium without a screen and without a network."""
    if headless.MISSING:
        pytest.skip(headless.MISSING)
    with headless.open_browser() as found:
        yield found


@pytest.fixture(scope="session")
def run_in_two(warm):
    """Runs the `main` of a test file in two processes, with its arguments."""

    def run(file, *arguments):
        command = [shutil.which("torchrun", path=warm["PATH"]), "--standalone", "--nproc_per_node=2", file, *arguments]
        environment = warm | {"DS_ACCELERATOR": "cpu"}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)
        assert result.returncode == 0, result.stderr[-3000:]

    return run


@pytest.fixture
def blank_pictures(monkeypatch):
    """Blank pictures in the reports of this process: drawing takes longer than much of what a small run does."""
    from matplotlib.figure import Figure

    for name in ("draw_matrices", "draw_curves"):
        monkeypatch.setattr(f"sefe_plugin.evaluation.figures.{name}", lambda *data, **more: Figure((1, 1)))


def build_llama(seed=0):
    """A two-layer Llama with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config)


def build_reglora(seed=0, base=None, autocast_adapter_dtype=True, **options):
    """A RegLoRA of a tiny Llama whose B is random too, as after training; the same seed gives the same adapter."""
    import torch
    from peft import get_peft_model

    from sefe_plugin.methods.reglora import RegLoraConfig

    options = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "down_proj"], **options}
    model = base or build_llama()
    torch.manual_seed(seed)
    model = get_peft_model(model, RegLoraConfig(**options), autocast_adapter_dtype=autocast_adapter_dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    return model


def measure_penalty_weight(make_trainer):
    """Measure how far what SefeCallback adds to the gradients is from the gradient of lambda * R.

    Args:
        make_trainer: Makes, from a list of callbacks, a Trainer of one and the same model and data, with learning
            rate 0 and no clipping; its model has key elements loaded.

    Returns:
        Number of optimizer steps; the largest relative distance over them.
    """
    import torch
    from transformers import TrainerCallback

    from sefe_plugin import SefeCallback
    from sefe_plugin.methods.reglora import find_reglora_model

    class Recorder(TrainerCallback):
        def __init__(self):
            self.gradients = []

        def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
            grads = [p.grad.double().flatten() for p in model.parameters() if p.requires_grad]
            self.gradients.append(torch.cat(grads))

    def train(*callbacks):
        recorder = Recorder()
        trainer = make_trainer([*callbacks, recorder])
        trainer.train()
        return trainer.model, recorder.gradients

    _, plain = train()
    model, penalised = train(SefeCallback())
    trainable = [p for p in model.parameters() if p.requires_grad]
    expected = torch.autograd.grad(find_reglora_model(model).penalty(), trainable)
    expected = torch.cat([grad.double().flatten() for grad in expected])
    # Below, the loss's gradient must not drown the penalty's in rounding.
    assert 0.1 < expected.norm() / plain[0].norm() < 1000
    errors = [(b - a - expected).norm() / expected.norm() for a, b in zip(plain, penalised, strict=True)]
    return len(errors), float(max(errors))


@pytest.fixture(scope="session")
def tiny_llama():
    return build_llama


@pytest.fixture(scope="session")
def tiny_reglora():
    return build_reglora


@pytest.fixture(scope="session")
def penalty_weight():
    return measure_penalty_weight


@pytest.fixture
def key_element_files(tmp_path) -> list[Path]:
    """The key elements of three earlier tasks of `tiny_reglora`, at key_ratio 0.1."""
    from sefe_plugin.methods.reglora import find_reglora_model

    files = [tmp_path / f"task{i}.safetensors" for i in range(3)]
    for i, file in enumerate(files):
        find_reglora_model(build_reglora(seed=100 + i, reglora_key_ratio=0.1)).save_key_elements(file)
    return files

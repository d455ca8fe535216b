import functools
import json
import shutil
from types import SimpleNamespace

import httpx
import peft.config
import pytest
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError
from peft import LoraConfig, PeftConfig
from peft.utils import PeftType

from sefe_plugin.hosts.llamafactory.adapter import adapted_by
from sefe_plugin.methods.reglora import RegLoraConfig
from sefe_plugin.methods.reglora import config as reglora_config
from sefe_plugin.methods.reglora.method import RegLora


def test_defaults_are_the_papers():
    config = RegLoraConfig()
    assert (config.reglora_weight, config.reglora_key_ratio, config.reglora_reduction, config.reglora_selection) == (
        2500.0,
        0.02,
        "official_mean",
        "top",
    )
    assert config.peft_type == PeftType.REGLORA == "REGLORA"
    assert PeftType("REGLORA") is PeftType.REGLORA
    assert PeftType.REGLORA in list(PeftType)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("reglora_weight", -1.0),
        ("reglora_weight", float("nan")),
        ("reglora_weight", float("inf")),
        ("reglora_weight", "2.5e3"),
        ("reglora_weight", True),
        ("reglora_key_ratio", 0.0),
        ("reglora_key_ratio", 1.5),
        ("reglora_key_ratio", float("nan")),
        ("reglora_key_ratio", None),
        ("reglora_reduction", "mean"),
        ("reglora_selection", "worst"),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("use_dora", True),
        ("use_qalora", True),
        ("alora_invocation_tokens", [1, 2]),
        ("target_parameters", ["experts.down_proj"]),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
    ],
)
def test_refusals_name_the_option(option, value):
    with pytest.raises(ValueError, match=option):
        RegLoraConfig(task_type="CAUSAL_LM", **{option: value})


@pytest.mark.parametrize(
    "options",
    [
        {"reglora_weight": 0},
        {"reglora_key_ratio": 1},
        {"reglora_reduction": "per_task_sum"},
        {"reglora_selection": "random"},
        {"use_rslora": True},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
    ],
)
def test_accepted(options):
    assert vars(RegLoraConfig(**options)).items() >= options.items()


def test_on_disk_it_is_a_plain_lora(tmp_path):
    ours = RegLoraConfig(
        r=5,
        target_modules=["q_proj"],
        rank_pattern={"v_proj": 2},
        reglora_weight=7,
        reglora_key_ratio=0.3,
        reglora_reduction="per_task_sum",
        reglora_selection="random",
    )
    ours.save_pretrained(str(tmp_path / "ours"))
    LoraConfig(r=5, target_modules=["q_proj"], rank_pattern={"v_proj": 2}).save_pretrained(str(tmp_path / "plain"))
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == [
        "adapter_config.json",
        "reglora_config.json",
    ]
    written = (tmp_path / "ours" / "adapter_config.json").read_text()
    assert written == (tmp_path / "plain" / "adapter_config.json").read_text()
    assert type(PeftConfig.from_pretrained(str(tmp_path / "ours"))) is LoraConfig

    back = RegLoraConfig.from_pretrained(str(tmp_path / "ours"))
    assert type(back) is RegLoraConfig
    assert vars(back) == vars(ours)


def test_a_folder_of_a_plain_lora_is_refused(tmp_path):
    LoraConfig().save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match=r"reglora_config.json: not found.*plain LoRA"):
        RegLoraConfig.from_pretrained(str(tmp_path))


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"reglora_weight": 1}', '{"reglora_weight": 1, "reglora_key_ratio": 1, "lambda": 1}']
)
def test_a_damaged_side_file_is_refused(tmp_path, content):
    RegLoraConfig().save_pretrained(str(tmp_path))
    (tmp_path / "reglora_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"reglora_config.json: (not valid JSON|must hold exactly)"):
        RegLoraConfig.from_pretrained(str(tmp_path))


def test_values_of_the_side_file_are_checked(tmp_path):
    RegLoraConfig().save_pretrained(str(tmp_path))
    options = {
        "reglora_weight": -1,
        "reglora_key_ratio": 0.1,
        "reglora_reduction": "official_mean",
        "reglora_selection": "top",
    }
    (tmp_path / "reglora_config.json").write_text(json.dumps(options))
    with pytest.raises(ValueError, match="reglora_weight"):
        RegLoraConfig.from_pretrained(str(tmp_path))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for the Hub with one repository, `user/repo`, whose files lie in `folder`; notes what is asked."""
    repository = SimpleNamespace(folder=tmp_path / "repo", asked=[])

    @functools.wraps(hf_hub_download)  # PEFT reads the signature
    def download(repo_id, filename, *, subfolder=None, user_agent=None, **kwargs):
        if repo_id != "user/repo":
            raise LocalEntryNotFoundError("no connection")
        repository.asked.append(kwargs)
        file = repository.folder / (subfolder or "") / filename
        if not file.exists():
            response = httpx.Response(404, request=httpx.Request("GET", "https://hub"))
            raise RemoteEntryNotFoundError("404", response=response)
        fetched = tmp_path / "cache" / (subfolder or "") / filename
        fetched.parent.mkdir(parents=True, exist_ok=True)
        return shutil.copy(file, fetched)

    for module in (peft.config, reglora_config):
        monkeypatch.setattr(module, "hf_hub_download", download)
    return repository


@pytest.mark.parametrize("subfolder", [None, "task2"])
def test_a_repository_on_the_hub_is_loaded(hub, subfolder):
    ours = RegLoraConfig(r=5, reglora_key_ratio=0.3)
    ours.save_pretrained(str(hub.folder / (subfolder or "")))
    back = RegLoraConfig.from_pretrained("user/repo", subfolder=subfolder, revision="v2", token="secret")
    assert vars(back) == vars(ours)
    assert hub.asked == [{"revision": "v2", "token": "secret"}] * 2


def test_a_repository_of_a_plain_lora_is_refused(hub):
    LoraConfig().save_pretrained(str(hub.folder))
    with pytest.raises(ValueError, match=r"reglora_config.json: not found.*plain LoRA"):
        RegLoraConfig.from_pretrained("user/repo")


def test_a_name_that_leads_nowhere_is_told_as_such(hub):
    with pytest.raises(ValueError, match=r"'user/typo' is no folder with adapter_config.json.*no connection.*Check"):
        RegLoraConfig.from_pretrained("user/typo")


def test_the_host_continues_an_adapter_from_the_hub(hub):
    class HostModel:
        @classmethod
        def from_pretrained(cls, model, model_id, is_trainable=False, **kwargs):
            return kwargs["config"]

    RegLoraConfig(r=5).save_pretrained(str(hub.folder))
    module = SimpleNamespace(LoraConfig=LoraConfig, PeftModel=HostModel)
    asked = {"cache_dir": "cache", "revision": "v2", "token": "secret"}
    with adapted_by(module, RegLora({"reglora_key_ratio": 0.3})):
        config = module.PeftModel.from_pretrained(
            None, "user/repo", is_trainable=True, subfolder=None, offload_folder="offload", **asked
        )
    assert (config.r, config.reglora_key_ratio) == (5, 0.3)
    assert hub.asked == [asked]  # its own options are the recipe's

"""The file that a task leaves: read as it was written, or refused with the reason."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from sefe_plugin.methods.left_file import read_left, write_left


KIND = "test.kind"


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "new" / "left.safetensors"
    write_left(
        {"a": torch.arange(6.0).view(2, 3).T, "b": torch.tensor([1, 2], dtype=torch.uint8)}, file, KIND, note="x"
    )
    return file


def test_read_inverts_write(file):
    tensors, metadata = read_left(file, KIND)
    assert metadata == {"note": "x"}
    assert tensors["a"].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]] and tensors["b"].tolist() == [1, 2]
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_an_absent_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none: no such file\. Train the earlier task first"):
        read_left(tmp_path / "none", KIND)


def test_a_file_of_another_kind_is_refused(file):
    with pytest.raises(ValueError, match=r"it is 'test\.kind' of version '1', not 'test\.other' of version '1'"):
        read_left(file, "test.other")
    save_file(load_file(file), file)
    with pytest.raises(ValueError, match="it is None of version None"):
        read_left(file, KIND)


def damage_tensor(content):
    content[-1] ^= 1


def damage_metadata(content):
    place = content.index(b'"note":"x"')
    content[place + 8] = ord("y")


def cut(content):
    del content[-2:]


@pytest.mark.parametrize("damage", [damage_tensor, damage_metadata, cut])
def test_damage_is_found(file, damage):
    content = bytearray(file.read_bytes())
    damage(content)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged.*Make it anew by training that task again"):
        read_left(file, KIND)

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from sefe_plugin.methods.reglora.codec import encode
from sefe_plugin.methods.reglora.files import KeyElements, read_key_elements, write_key_elements


def example(file, **changes):
    shapes = {"layers.0.q_proj": (8, 10), "layers.0.v_proj": (4, 10)}
    codes = {
        "layers.0.q_proj": encode(torch.tensor([0, 7, 8, 30, 31, 62, 77, 79]), 80),
        "layers.0.v_proj": encode(torch.tensor([1, 2, 3, 39]), 40),
    }
    elements = KeyElements(file=file, key_ratio=0.1, shapes=shapes, codes=codes, adapter_sha256="ab" * 32)
    vars(elements).update(changes)
    return elements


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "new" / "task.safetensors"
    write_key_elements(example(file))
    return file


def rewrite(file, **changes):
    """Change entries of the metadata and keep the tensors."""
    with safe_open(file, framework="pt") as archive:
        metadata = {**archive.metadata(), **changes}
        tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    save_file(tensors, file, {key: value for key, value in metadata.items() if value is not None})


def test_read_inverts_write(file):
    elements, expected = read_key_elements(file), example(file)
    assert elements.codes.keys() == expected.codes.keys()
    assert all(torch.equal(elements.codes[name], codes) for name, codes in expected.codes.items())
    del elements.codes, expected.codes
    assert vars(elements) == vars(expected)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_equal_key_elements_give_equal_bytes(file, tmp_path):
    for number in range(5):
        write_key_elements(example(tmp_path / f"{number}.safetensors"))
        assert (tmp_path / f"{number}.safetensors").read_bytes() == file.read_bytes()


def test_the_format_on_disk(file):
    with safe_open(file, framework="pt") as archive:
        metadata = archive.metadata()
    assert metadata["format"] == "sefe_plugin.key_elements"
    assert metadata["version"] == "3"
    assert float(metadata["key_ratio"]) == 0.1
    assert json.loads(metadata["shapes"]) == {"layers.0.q_proj": [8, 10], "layers.0.v_proj": [4, 10]}
    assert metadata["selection"] == "top"
    assert metadata["count"] == "12"
    assert metadata["adapter_sha256"] == "ab" * 32


def test_a_failing_write_leaves_the_old_file(file, monkeypatch):
    def fail(path, content):
        with path.open("wb") as half:
            half.write(content[:10])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        write_key_elements(example(file, key_ratio=0.5))
    assert read_key_elements(file).key_ratio == 0.1


def test_absent_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="Train the earlier task first"):
        read_key_elements(tmp_path / "none.safetensors")


def test_truncation_at_any_length_is_refused(file):
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"new/task\.safetensors: damaged"):
            read_key_elements(file)


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_is_refused_or_changes_nothing(file, data):
    write_key_elements(example(file))
    raw = bytearray(file.read_bytes())
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] = data.draw(st.integers(0, 255).filter(lambda byte: byte != raw[position]))
    file.write_bytes(raw)
    try:
        elements = read_key_elements(file)
    except ValueError as error:
        assert str(error).startswith(f"{file}: ")
    else:
        expected = example(file)
        assert elements.shapes == expected.shapes
        assert elements.key_ratio == expected.key_ratio
        assert all(torch.equal(elements.codes[name], codes) for name, codes in expected.codes.items())


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_bytes_are_refused(tmp_path, raw):
    file = tmp_path / "task.safetensors"
    file.write_bytes(raw)
    with pytest.raises(ValueError, match="damaged, or not a safetensors file"):
        read_key_elements(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "not a file of key elements"),
        ({"format": None}, "not a file of key elements"),
        ({"version": "2"}, "version '2' of the format; this release reads version '3'"),
        ({"version": "4"}, "version '4' of the format; this release reads version '3'"),
        ({"key_ratio": "0.2"}, "does not match its checksum"),
        ({"selection": "random"}, "does not match its checksum"),
        ({"shapes": "{}"}, "does not match its checksum"),
        ({"count": None}, "its head lacks or has too many fields"),
        ({"extra": "1"}, "its head lacks or has too many fields"),
    ],
)
def test_other_metadata_is_refused(file, changes, message):
    rewrite(file, **changes)
    with pytest.raises(ValueError, match=message):
        read_key_elements(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"key_ratio": 0.2},
            r"'layers.0.q_proj' holds 8 positions; a \(8, 10\) matrix at reglora_key_ratio 0.2 has 16",
        ),
        ({"shapes": {"layers.0.q_proj": (8, 9), "layers.0.v_proj": (4, 10)}}, "position 79 of a matrix of 72"),
        ({"shapes": {"layers.0.q_proj": (8, 10)}}, "'layers.0.v_proj' stands without its shape"),
    ],
)
def test_inconsistent_content_is_refused(file, changes, message):
    write_key_elements(example(file, **changes))
    with pytest.raises(ValueError, match=message):
        read_key_elements(file)


@pytest.mark.parametrize(
    ("shapes", "key_ratio", "message"),
    [
        ({"layers.0.q_proj": (8, 10), "layers.0.v_proj": (4, 10)}, 0.2, "key_ratio 0.1, but the model's is 0.2"),
        ({"layers.0.q_proj": (8, 10), "layers.0.v_proj": (5, 10)}, 0.1, r"'layers.0.v_proj' has shape \(4, 10\)"),
        ({"layers.0.q_proj": (8, 10)}, 0.1, "'layers.0.v_proj' is adapted in the file but not in the model"),
        (
            {"layers.0.q_proj": (8, 10), "layers.0.v_proj": (4, 10), "x": (1, 1)},
            0.1,
            "'x' is adapted in the model but not in the file",
        ),
    ],
)
def test_key_elements_of_another_model_are_refused(file, shapes, key_ratio, message):
    with pytest.raises(ValueError, match=message):
        read_key_elements(file).check_fits(shapes, key_ratio)


def test_key_elements_chosen_otherwise_are_refused(file):
    with pytest.raises(ValueError, match="chosen with reglora_selection 'top', but the model's is 'random'"):
        read_key_elements(file).check_fits(example(file).shapes, 0.1, "random")


def test_key_elements_of_the_same_model_fit(file):
    read_key_elements(file).check_fits(example(file).shapes, 0.1)


def test_tensors_of_another_type_are_refused(file):
    with safe_open(file, framework="pt") as archive:
        metadata = archive.metadata()
    save_file({"layers.0.q_proj": torch.ones(3, dtype=torch.bfloat16)}, file, metadata)
    with pytest.raises(ValueError, match="does not match its checksum"):
        read_key_elements(file)

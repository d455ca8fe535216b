"""`dataset_info.json`, in which no name may stand twice."""

import pytest

from sefe_plugin.data.declarations import DoubledNameError, read_declarations


@pytest.fixture
def info(tmp_path):
    return tmp_path / "dataset_info.json"


def test_a_name_may_stand_in_several_entries(info):
    info.write_text('{"a": {"file_name": "x"}, "b": {"file_name": "x", "columns": {"file_name": "x"}}}')
    assert read_declarations(info) == {
        "a": {"file_name": "x"},
        "b": {"file_name": "x", "columns": {"file_name": "x"}},
    }


@pytest.mark.parametrize(
    ("content", "places"),
    [
        ('{"charts": {}, "charts": {}, "charts": {}}', "the dataset 'charts'"),
        ('{"a": {"file_name": "x", "file_name": "x"}}', "`file_name` in the entry 'a'"),
        ('{"a": {"tags": {"x": 1, "x": 2}}, "b": {}, "b": {}}', "`x` in the entry 'a' and the dataset 'b'"),
        ('{"a": {"x": 1, "x": 2}, "a": {}}', "`x` and the dataset 'a'"),
        ('{"a": {"parts": [{"x": 1, "x": 2}]}}', "`x` in the entry 'a'"),
        ('[{"x": 1, "x": 2}]', "`x`"),
    ],
)
def test_what_stands_twice_is_named(info, content, places):
    info.write_text(content)
    with pytest.raises(DoubledNameError) as fault:
        read_declarations(info)
    rule = "more than once, of which the last alone would count. Rename or remove the others"
    assert str(fault.value) == f"holds {places} {rule}"

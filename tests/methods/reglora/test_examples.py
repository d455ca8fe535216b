import doctest

import pytest

from sefe_plugin.methods.reglora import codec, config, key_elements


@pytest.mark.parametrize("module", [codec, config, key_elements], ids=lambda module: module.__name__)
def test_examples_in_docstrings(module):
    failed, tried = doctest.testmod(module)
    assert tried > 0
    assert failed == 0

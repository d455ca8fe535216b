"""Fuzzing: a reader gets valid input that was broken, and input of any structure.

Example::

    @fuzzed(data=broken(b"[0.1, 0.2]"))
    def test_reader(folder, data):
        with only(ValueError):
            read(data)

Each such test is two: one of 100 cases that always runs, and one of 10,000 under the marker `faults`. No case may take
longer than ten seconds, and all cases of a test together no more than 400 MB.
"""

import resource
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st


SHORT, LONG = 100, 10_000
#: Cases of one drawing. Hypothesis remembers them all, which takes up to 100 MB for a thousand.
_DRAWING = 1000
_SECONDS, _MEGABYTES = 10.0, 400

#: What breaks readers of texts: numbers that are none, half a surrogate pair, depth, foreign encodings, blanks.
_ODD = [
    *(b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"null", b"true", b"[]", b"{}", b"''", b'""', b"-", b"0x10"),
    *(
        b'"\\ud800"',
        b"[" * 3000,
        b'{"a":' * 3000,
        b"\x00",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xe2\x80\xa8",
        b"\n",
        b"\t",
    ),
    *(b"2020-01-01", b"!!python/object:os.system", b"&a", b"*a", b"${a}", b"<<: 1", b"? ", b": ", b"- ", b"#", b"%"),
]

#: Any JSON value, and what else YAML has.
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.text(st.characters(categories=["Cs", "Cc", "Zs", "Nd"]), max_size=5)
    | st.sampled_from(["", "yes", "A", "[0, 0, 1, 1]", "nan", "1e999", 10**30, "x" * 5000])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def broken(draw, *valid: bytes) -> bytes:
    """Draw one of the valid inputs with some bits flipped, parts cut out, doubled, put in or spliced."""
    data = bytearray(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.integers(0, 6))
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(1, 40)))
        if kind == 0 and start < len(data):
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == 1:
            del data[start:]
        elif kind == 2:
            del data[start:end]
        elif kind == 3:
            data[start:start] = data[start:end]
        elif kind == 4:
            data[start:end] = draw(st.sampled_from(_ODD))
        elif kind == 5:
            data[start:start] = draw(st.binary(max_size=8))
        else:
            other = draw(st.sampled_from(valid))
            data[start:] = other[draw(st.integers(0, len(other))) :]
    return bytes(data)


def fuzzed(**strategies) -> Callable:
    """Make a test in two lengths of a check, which gets a folder of its own and the drawn inputs by name."""

    def wrap(check: Callable) -> Callable:
        @pytest.mark.parametrize("cases", [SHORT, pytest.param(LONG, marks=pytest.mark.faults)])
        def test(tmp_path, cases):
            def run(**drawn):
                check(tmp_path, **drawn)

            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            limits = {"deadline": 1000 * _SECONDS, "suppress_health_check": list(HealthCheck), "database": None}
            # a failing case is shown as it was drawn: to shrink it may take minutes
            limits |= {"max_examples": min(cases, _DRAWING), "derandomize": cases == SHORT}
            for _ in range(0, cases, _DRAWING):
                settings(phases=[Phase.generate], **limits)(given(**strategies)(run))()
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            assert grown < _MEGABYTES, f"{grown:.0f} MB"

        test.__doc__ = check.__doc__
        return test

    return wrap


def only(*errors: type[Exception]):
    """Let these errors pass, and no other."""
    return suppress(*errors)

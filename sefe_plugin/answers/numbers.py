"""Numbers in answers: digits or words, with or without a unit."""

import math
import re
from typing import NamedTuple
from unicodedata import normalize


class Quantity(NamedTuple):
    """A number and what it counts or measures.

    Attributes:
        value: The number.
        unit: Its unit in one spelling, such as "kg", "percent" or "dog"; "" without one.
    """

    value: float
    unit: str = ""


_ONES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_LARGE = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_VALUES = {
    "zero": 0,
    **{word: number for number, word in enumerate((*_ONES, *_TEENS), start=1)},
    **{word: 10 * number for number, word in enumerate(_TENS, start=2)},
}
_CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen"}
_LENGTHS = {"kilo": "km", "centi": "cm", "milli": "mm"}
#: Spelling of a unit -> the one that is compared. A final "s" of a plural is gone before.
_UNITS = {
    **dict.fromkeys(("%", "percentage", "pct", "per cent"), "percent"),
    **{"usd": "dollar", "eur": "euro", "gbp": "pound", "metre": "m", "meter": "m", "gram": "g", "kilogram": "kg"},
    **{f"{long}{m}": short for long, short in _LENGTHS.items() for m in ("metre", "meter")},
    **{"second": "s", "sec": "s", "minute": "min", "hour": "h", "hr": "h", "litre": "l", "liter": "l"},
    **{"°": "degree", "°c": "celsius", "degree celsius": "celsius", "°f": "fahrenheit", "square meter": "m2"},
}


def _any(words) -> str:
    return f"(?:{'|'.join(words)})"


_BELOW_100 = rf"(?:{_any(_TENS)}(?:[\s-]+{_any(_ONES)})?|{_any(_TEENS)}|{_any(_ONES)}|zero)"
_BELOW_1000 = rf"(?:(?:an?|{_BELOW_100})\s+hundred(?:\s+(?:and\s+)?{_BELOW_100})?|{_BELOW_100})"
_LARGE_ONE = rf"(?:an?|{_BELOW_1000})\s+{_any(_LARGE)}"
_IN_WORDS = rf"(?:{_LARGE_ONE},?\s+(?:and\s+)?)*(?:{_LARGE_ONE}|{_BELOW_1000})"
_IN_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:[.,]\d+)?|\.\d+)(?:e[-+]?\d{1,2}(?!\w))?"
_NUMBER = re.compile(
    rf"(?<![\w.,/])(?P<sign>[-+]?)\s?(?P<currency>[$€£¥]?)\s?"
    rf"(?:(?P<digits>{_IN_DIGITS})(?:/(?P<below>\d+)(?![\d/]))?(?:\s*(?P<large>{_any(_LARGE)})\b)?|(?P<words>{_IN_WORDS})\b)",
    re.IGNORECASE,
)
_UNIT = re.compile(r"\s*(%|°\s?[cf]\b|°|[^\W\d_][^\W_]*(?:[/ ][^\W\d_][^\W_]*)?)?\s*\.?", re.IGNORECASE)


def read_quantity(text: str) -> Quantity | None:
    """Read a text that is one number, possibly with a currency's sign or a unit of at most two words; None otherwise.

    A comma before exactly three digits groups them; any other one stands for a decimal point.

    Example:
        >>> read_quantity("$1,200"), read_quantity("twenty-one dogs"), read_quantity("3,5 %.")
        (Quantity(value=1200.0, unit='dollar'), Quantity(value=21.0, unit='dog'), Quantity(value=3.5, unit='percent'))
        >>> read_quantity("There are 3 dogs") is None
        True
    """
    text = _plain(text).strip()
    match = _NUMBER.match(text)
    value = _value(match) if match else None
    rest = _UNIT.fullmatch(text, match.end()) if match else None
    return None if value is None or rest is None else Quantity(value, _unit(match, rest.group(1)))


def quantities_in(text: str) -> list[Quantity]:
    """Return all numbers in a text, each with the word behind it as its unit, in their order.

    Example:
        >>> quantities_in("Of twelve dogs 3 are brown.")
        [Quantity(value=12.0, unit='dog'), Quantity(value=3.0, unit='are')]
    """
    text, found = _plain(text), []
    for match in _NUMBER.finditer(text):
        value = _value(match)
        word = re.match(r"\s*(%|°\s?[cf]\b|°|[^\W\d_]+)?", text[match.end() : match.end() + 40], re.IGNORECASE).group(
            1
        )
        if value is not None:
            found.append(Quantity(value, _unit(match, word)))
    return found


def _plain(text: str) -> str:
    return " ".join(normalize("NFKC", text).replace("\u2212", "-").replace("**", "").split())


def _unit(match: re.Match, word: str | None) -> str:
    if match["currency"]:
        return _CURRENCIES[match["currency"]]
    unit = " ".join((word or "").casefold().replace("° ", "°").split())
    if len(unit) > 3 and unit.endswith("s") and not unit.endswith("ss"):
        unit = unit[:-1]
    return _UNITS.get(unit, unit)


def _value(match: re.Match) -> float | None:
    """Return the number, None where it is out of all bounds."""
    if match["words"]:
        value = _value_of_words(match["words"])
    else:
        digits = match["digits"]
        grouped = re.match(r"\d{1,3}(?:,\d{3})+(?![\d,])", digits)
        value = float(digits.replace(",", "" if grouped else "."))
        if match["below"]:
            below = float(match["below"])
            value = value / below if below else math.inf
        value *= _LARGE.get((match["large"] or "").lower(), 1)
    return (-value if match["sign"] == "-" else value) if math.isfinite(value) else None


def _value_of_words(words: str) -> float:
    total = current = 0.0
    for word in re.findall(r"[a-z]+", words.lower()):
        if word in _LARGE:
            total, current = total + (current or 1) * _LARGE[word], 0.0
        elif word == "hundred":
            current = 100 * (current or 1)
        else:
            current += _VALUES.get(word, 0)  # "a", "an" and "and" add nothing
    return total + current

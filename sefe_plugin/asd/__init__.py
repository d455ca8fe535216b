"""Answer Style Diversification (SEFE): a share of each task's samples in other answer styles."""

from sefe_plugin.asd.diversify import Origin, diversify
from sefe_plugin.asd.rules import Sample, native_style


__all__ = ["Origin", "Sample", "diversify", "native_style"]

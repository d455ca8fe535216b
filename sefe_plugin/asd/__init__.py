"""Answer Style Diversification (SEFE): a share of each task's samples in other answer styles."""

"""Numbers of a plan in words."""


def number_words(value: int | None) -> str:
    """Return a number to be read; "?" for one that is not known."""
    return "?" if value is None else f"{value:,}"


def size_words(size: int) -> str:
    """Return a number of bytes to be read: 1 GB is 10^9 bytes, as disks have it."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1e3:.1f} kB"


def duration_words(seconds: int) -> str:
    """Write a time in the two largest units.

    Example:
        >>> duration_words(42), duration_words(600), duration_words(200_000)
        ('42 s', '10 min', '55 h 33 min')
    """
    if seconds < 120:
        return f"{seconds} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"

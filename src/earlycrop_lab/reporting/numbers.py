"""Numbers formatted for people: percents, three significant digits, multiples."""

NONE = "–"


def percent(part: float | None) -> str:
    """A fraction in percent.

    >>> percent(0.9501), percent(None)
    ('95.0 %', '–')
    """
    return NONE if part is None else f"{100 * part:.1f} %"


def amount(value: float | None, unit: str = "", scale: float = 1.0) -> str:
    """Three significant digits, with a separator between thousands.

    >>> amount(11173962), amount(0.01234, "g"), amount(1536000, "MB", 1e-6), amount(64.128, "s"), amount(0)
    ('11,173,962', '0.0123 g', '1.54 MB', '64.1 s', '0')
    >>> amount(-83.24)
    '-83.2'
    """
    if value is None:
        return NONE
    value *= scale
    if isinstance(value, int) or abs(value) >= 1000:
        text = f"{value:,.0f}"
    elif value == 0:
        text = "0"
    else:
        text = f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.2e}"
    return f"{text} {unit}".rstrip()


def times(multiple: float) -> str:
    """A multiple, to three significant digits.

    >>> times(0.7), times(11.82)
    ('×0.700', '×11.8')
    """
    return f"×{digits(multiple)}"


def large(value: float | None) -> str:
    """Three significant digits and a letter for the power of a thousand.

    >>> large(1234567), large(62_000_000_000), large(12)
    ('1.23 M', '62 G', '12')
    """
    if value is None:
        return NONE
    for letter, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def digits(value: float) -> str:
    """Three significant digits, with trailing zeros, so that the numbers of a column align."""
    return f"{value:#.3g}".rstrip(".")

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
    >>> amount(-83.24), amount(999.7)
    ('-83.2', '1,000')
    """
    if value is None:
        return NONE
    value *= scale
    if isinstance(value, int) or abs(_rounded(value)) >= 1000:
        text = f"{value:,.0f}"
    elif value == 0:
        text = "0"
    else:
        text = f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.2e}"
    return f"{text} {unit}".rstrip()


def times(multiple: float) -> str:
    """A multiple, to three significant digits.

    >>> times(0.7), times(11.82), times(1234.5)
    ('×0.700', '×11.8', '×1,234')
    """
    return f"×{digits(multiple)}"


def large(value: float | None) -> str:
    """Three significant digits and a letter for the power of a thousand.

    >>> large(1234567), large(62_000_000_000), large(12), large(999_700)
    ('1.23 M', '62 G', '12', '1 M')
    """
    if value is None:
        return NONE
    for letter, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if _rounded(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def digits(value: float) -> str:
    """Three significant digits, with trailing zeros, so that the numbers of a column align; from 1,000 on all digits.

    >>> digits(9.999), digits(999.4), digits(999.5)
    ('10.0', '999', '1,000')
    """
    return f"{value:,.0f}" if abs(_rounded(value)) >= 1000 else f"{value:#.3g}".rstrip(".")


def _rounded(value: float) -> float:
    """The value as its three significant digits say it: what is nearly 1,000 is shown as that."""
    return float(f"{value:.3g}")

"""Numbers for people to read."""

from decimal import Decimal


def number(value: float | None) -> str:
    """With three digits or more."""
    if value is None:
        return "–"
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86400:.0f} days"


def about(seconds: float) -> str:
    """How long something still takes, as every page says it: `about 3 min`. So rounded that it seldom changes."""
    if seconds < 60:
        return "a few seconds" if seconds < 20 else "less than a minute"
    return f"about {duration(seconds)}"


def size(number: int) -> str:
    """A number of bytes, rounded."""
    if abs(number) >= 2**30:
        return f"{number / 2**30:.1f} GiB"
    if number == 0 or abs(number) >= 2**20:
        return f"{number / 2**20:.0f} MiB"
    return f"{number / 2**10:.0f} KiB" if abs(number) >= 2**10 else f"{number} bytes"


def price(amount: Decimal | None) -> str:
    """With all of its digits."""
    return "–" if amount is None else f"{amount.normalize():f}"


def money(amount: Decimal | None, currency: str) -> str:
    """With three digits or more."""
    if amount is None:
        return "–"
    digits = 2 if amount >= 1 or not amount else min(10, 2 - amount.adjusted())
    return f"{amount:,.{digits}f} {currency}"

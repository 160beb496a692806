"""How much of the engine a running batch has, in words."""


def share_words(share: float | None) -> str:
    """`12 % of the engine`; empty where it is not known, and where the batch has the engine for itself. share: the part
    of the engine's requests in flight, as `entries.shares` gives it."""
    return "" if share is None or share >= 1 else f"{100 * share:.0f} % of the engine"

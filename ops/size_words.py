"""Numbers as the tables of `size` write them."""

from __future__ import annotations

from planner.sizing import Option
from planner.sizing.apart_options import ApartOption


def price_words(option: Option | ApartOption) -> str:
    """Dollars an hour; `~` where a price was not quoted."""
    return ("~" if option.guesses else "") + f"{option.usd_per_hour:,.2f}"


def percent_words(share: float) -> str:
    """Of a share near 1, rounded down."""
    return ">99.9999 %" if share > 0.999999 else f"{int(share * 1e6) / 1e4:.4f} %"

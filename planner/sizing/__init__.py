"""How many of which machines serve a model's load, what that costs, and why the rest lost.

size(SizeRequest(...)) -> Sizing      the Pareto front of cost, latency and resilience; experimental answers beside it
entries(member, ...) -> Entries       the front's choice as `models:` and `pools:` entries of a stack file
"""

from __future__ import annotations

from planner.sizing.entries import Entries, Image, entries
from planner.sizing.front import ApartMember, Member, Sizing, TokenPrice, size
from planner.sizing.options import Option
from planner.sizing.request import DIMENSIONS, ENGINES, SizeError, SizeRequest

__all__ = [
    "DIMENSIONS",
    "ENGINES",
    "ApartMember",
    "Entries",
    "Image",
    "Member",
    "Option",
    "SizeError",
    "SizeRequest",
    "Sizing",
    "TokenPrice",
    "entries",
    "size",
]

"""Prompts that are computed before the first request."""

from __future__ import annotations

import json
import math

from planner.engines.checks import options_of
from planner.performance import Replica, prefill_ms
from planner.plan import WarmPromptsPlan
from planner.problems import Findings
from settings.errors import Path
from settings.serving import Model

_CHARACTERS_PER_TOKEN = 4
"""English text with the tokenizers of the catalog's models: 4 to 5 characters a token."""
_MOST_BYTES = 1_000_000
"""Of all prompts: a ConfigMap holds 1 MiB, and the script that sends them lies beside them."""
_LEAST_SECONDS = 15
_MOST_SECONDS = 120
_MARGIN = 4
"""An engine that has just started compiles and captures what its first requests need."""


def check_warm_prompts(path: Path, model: Model, findings: Findings) -> None:
    """Refuses prompts that cannot be replayed before a pod is ready."""
    if not model.warm_prompts:
        return
    at = (*path, "warm_prompts")
    if model.runtime == "ray_service":
        findings.problem(
            at,
            "Ray Serve decides by itself when a replica is ready: nothing can be replayed before",
            "leave it out, or use runtime deployment or leader_worker_set",
        )
        return
    if not options_of(model).prefix_caching:
        findings.problem(
            at,
            "the engine keeps no prefixes (`engine_options.prefix_caching: false`)",
            "leave one of the two out",
        )
    size = len(json.dumps(list(model.warm_prompts), ensure_ascii=False).encode())
    if size > _MOST_BYTES:
        findings.problem(
            at,
            f"they are {size:,} bytes, and the ConfigMap that holds them takes {_MOST_BYTES:,}",
            "name those that most requests begin with",
        )
    for index, count in enumerate(_tokens(model)):
        if count >= model.context_tokens:
            findings.problem(
                (*at, index), f"about {count} tokens, and the context has {model.context_tokens}", "shorten it"
            )


def _tokens(model: Model) -> list[int]:
    return [max(1, len(prompt) // _CHARACTERS_PER_TOKEN) for prompt in model.warm_prompts]


def plan_warm_prompts(model: Model, replica: Replica, *, caches: int) -> WarmPromptsPlan | None:
    """Prompts that are computed once before a pod is ready; None where the stack file names none.

    `caches` are groups of ranks that keep one each (data parallel attention): every one computes every prompt.
    """
    if not model.warm_prompts:
        return None
    tokens = _tokens(model)
    times = [prefill_ms(replica, tokens=float(count), context=0.0) for count in tokens]
    budget = min(_MOST_SECONDS, max(_LEAST_SECONDS, math.ceil(_MARGIN * sum(times) / 1000)))
    return WarmPromptsPlan(
        prompts=tuple(model.warm_prompts),
        tokens=tuple(tokens),
        saved_ms=tuple(times),
        caches=caches,
        limit_seconds=budget,
    )


def warm_prompts_words(plan: WarmPromptsPlan) -> str:
    """What replaying prompts gains, in words."""
    longest = max(plan.saved_ms)
    by_each = f", by each of {plan.caches} groups of ranks," if plan.caches > 1 else ","
    return (
        f"{len(plan.prompts)} prompt(s) of about {sum(plan.tokens):,} tokens{by_each} computed in "
        f"{sum(plan.saved_ms):.0f} ms before a pod is ready and never longer than {plan.limit_seconds} s: the first "
        f"request that begins with one waits up to {longest:.0f} ms less for its first token"
    )

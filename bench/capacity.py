"""How many answers of the performance model a second: `python -m bench.capacity`, in a process of its own."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

from catalog import load
from planner.layout import choose, node_of
from planner.memory import Serving, served_weights_gb
from planner.performance import Replica, TokenLengths, capacity, matrix_precision, replica_of

_SECONDS = 2.0
_INPUT, _OUTPUT = TokenLengths(mean=1000, p99=4000), TokenLengths(mean=250, p99=1000)


def replicas() -> Iterator[Replica]:
    """Every model of the catalog on every instance type that holds it, by the layout that the planner takes."""
    facts = load()
    for card in facts.models.values():
        for instance in facts.instances.values():
            if instance.gpu is None:
                continue
            serving = Serving(
                engine="vllm",
                weights_gb=served_weights_gb(card, "checkpoint"),
                kv_bytes_per_value=2,
                context_tokens=min(8192, card.max_context),
            )
            node = node_of(instance, facts.gpus[instance.gpu])
            if (found := choose(card, node, serving)) is not None:
                yield replica_of(
                    card,
                    node,
                    found,
                    engine="vllm",
                    precision=matrix_precision(card, "checkpoint"),
                    network_gbps=instance.network_gbps,
                )


def main() -> None:
    """Go round all replicas for two seconds of a processor."""
    everyone = list(replicas())
    asked, start = 0, time.process_time()
    while (spent := time.process_time() - start) < _SECONDS:
        replica = everyone[asked % len(everyone)]
        capacity(replica, input=_INPUT, output=_OUTPUT, ttft_p99_ms=2000, tpot_p99_ms=60)
        asked += 1
    sys.stdout.write(json.dumps({"per_second": asked / spent, "replicas": len(everyone)}) + "\n")


if __name__ == "__main__":
    main()

"""`python -m bench.size <step>`: every step-th model sized over all instance types and all regions with prices.

Prints the seconds of the searches, without the start of the process and its imports.
"""

from __future__ import annotations

import json
import sys
import time

from catalog.load import Catalog, load
from planner.performance import TokenLengths
from planner.sizing import SizeError, SizeRequest, size
from planner.sizing.money import prices_known


def searched(step: int, catalog: Catalog) -> dict[str, object]:
    """How much was searched, and how long that took by the clock and by the processor."""
    models = list(catalog.models)[::step]
    regions = tuple(name for name in catalog.regions if prices_known(name, catalog))
    options = replicas = unserved = 0
    start, start_cpu = time.perf_counter(), time.process_time()
    for model in models:
        try:
            found = size(request(model, regions), catalog).searched
        except SizeError:
            unserved += 1
            continue
        options += found.options
        replicas += found.replicas
    return {
        "models": len(models),
        "unserved": unserved,
        "regions": len(regions),
        "replicas": replicas,
        "options": options,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - start_cpu,
    }


def request(model: str, regions: tuple[str, ...]) -> SizeRequest:
    """A load that takes some nodes of any model."""
    return SizeRequest(
        model=model,
        requests_per_second=20,
        input=TokenLengths(mean=1024, p99=4096),
        output=TokenLengths(mean=256, p99=1024),
        ttft_p99_ms=2000,
        tpot_p99_ms=60,
        regions=regions,
    )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(searched(int(sys.argv[1]), load())) + "\n")

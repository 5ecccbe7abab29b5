"""What the peers' measurements share: threads, medians, and the form of a result."""

import argparse
import json
import os
import statistics
import time

WARM_UP_RUNS = 5
RUNS = 30
SECONDS = 2.0


def threads():
    """The number of threads from the command line; the process is held to as many processors.

    Call this before jax or torch is imported: both size their thread pools when they start.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    count = parser.parse_args().threads
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[:count])
    os.environ["OMP_NUM_THREADS"] = str(count)
    return count


def median_ms(run):
    """The median time of `run()` in milliseconds: at least RUNS runs, and SECONDS of them."""
    for _ in range(WARM_UP_RUNS):
        run()
    times = []
    while len(times) < RUNS or sum(times) < SECONDS:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def report(**result):
    """Prints one result as a line of JSON."""
    if "ms" in result:
        result["ms"] = round(result["ms"], 5)
    print(json.dumps(result), flush=True)

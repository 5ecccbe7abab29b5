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
    return medians_ms({"run": run})["run"]


def medians_ms(runs, warm_up=WARM_UP_RUNS, least=RUNS, seconds=SECONDS):
    """The same for several functions by name, in turn, so that a slow moment of the machine falls on all alike."""
    for run in runs.values():
        for _ in range(warm_up):
            run()
    times = {name: [] for name in runs}
    while any(len(t) < least or sum(t) < seconds for t in times.values()):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(t) for name, t in times.items()}


def report(**result):
    """Prints one result as a line of JSON."""
    if "ms" in result:
        result["ms"] = round(result["ms"], 5)
    print(json.dumps(result), flush=True)

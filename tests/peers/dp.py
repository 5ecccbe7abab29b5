"""Per-sample clipping in Opacus: time and peak memory of the sum of clipped gradients, per-sample gradients written out
(explicit) or only their norms computed (ghost), beside the plain gradient.

Prints JSON lines {"model": "mlp|cnn", "peer": "opacus", "what": "plain|explicit|ghost", "ms": median, "mb": peak beyond
what was allocated before}. f32, CPU. Before timing, the two ways must agree.
"""

from timing import median_ms, report, threads

THREADS = threads()

import gc
import warnings

# Of hooks on a first layer, whose inputs have no gradient.
warnings.filterwarnings("ignore")

import opacus
import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import nn
from torch.nn import functional as F

torch.set_num_threads(THREADS)

MAX_NORM = 1.0


def mlp():
    return nn.Sequential(
        nn.Linear(784, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 10)
    )


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 10),
    )  # fmt: skip


MODELS = {"mlp": (mlp, (128, 784)), "cnn": (cnn, (64, 1, 28, 28))}


def seeded(make):
    torch.manual_seed(0)
    return make()


class Plain:
    def __init__(self, make, x, y):
        self.model, self.x, self.y = seeded(make), x, y

    def clear(self):
        self.model.zero_grad()

    def __call__(self):
        self.clear()
        F.cross_entropy(self.model(self.x), self.y).backward()

    def result(self):
        return [p.grad for p in self.model.parameters()]


class Explicit:
    def __init__(self, make, x, y):
        self.model, self.x, self.y = GradSampleModule(seeded(make)), x, y
        self.optimizer = optimizer(DPOptimizer, self.model, x)

    def clear(self):
        self.optimizer.zero_grad(set_to_none=True)

    def __call__(self):
        self.clear()
        F.cross_entropy(self.model(self.x), self.y).backward()
        self.optimizer.clip_and_accumulate()

    def result(self):
        return [p.summed_grad for p in self.model.parameters()]


class Ghost:
    def __init__(self, make, x, y):
        self.model = GradSampleModuleFastGradientClipping(seeded(make), max_grad_norm=MAX_NORM)
        self.x, self.y = x, y
        self.optimizer = optimizer(DPOptimizerFastGradientClipping, self.model, x)
        self.loss = DPLossFastGradientClipping(self.model, self.optimizer, nn.CrossEntropyLoss())

    def clear(self):
        self.optimizer.zero_grad(set_to_none=True)

    def __call__(self):
        self.clear()
        self.loss(self.model(self.x), self.y).backward()

    def result(self):
        return [p.grad for p in self.model.parameters()]


def optimizer(kind, model, x):
    inner = torch.optim.SGD(model.parameters(), lr=0.0)
    return kind(inner, noise_multiplier=0.0, max_grad_norm=MAX_NORM, expected_batch_size=len(x))


def peak_mb(run):
    """The most memory allocated at once during a call beyond what was there before, without gradients of an earlier one."""
    run.clear()
    gc.collect()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    current = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak / 1e6


def main():
    for name, (make, shape) in MODELS.items():
        torch.manual_seed(1)
        x, y = torch.randn(shape), torch.randint(10, shape[:1])
        runs = {"plain": Plain(make, x, y), "explicit": Explicit(make, x, y), "ghost": Ghost(make, x, y)}
        for run in runs.values():
            run()
        explicit, ghost = (torch.cat([g.flatten() for g in runs[w].result()]) for w in ("explicit", "ghost"))
        error = ((explicit - ghost).norm() / explicit.norm()).item()
        if not error < 1e-4:
            raise SystemExit(f"{name}: explicit and ghost differ by {error:.1e}")
        for what, run in runs.items():
            ms, mb = median_ms(run), round(peak_mb(run), 2)
            report(model=name, peer="opacus", version=opacus.__version__, what=what, ms=ms, mb=mb)


if __name__ == "__main__":
    main()

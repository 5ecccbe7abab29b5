"""A step on m losses in TorchJD and in LibMTL: one body, m heads, the gradients of the shared parameters joined and written to `.grad`,
the heads' own beside them.

Prints JSON lines {"model": "mlp|cnn, m tasks", "peer": "torch|torchjd|libmtl", "what": step, "ms": median, "mb": peak beyond what was
allocated before}. f32, CPU. Before timing, the two engines of TorchJD must agree, and so must LibMTL's rows and TorchJD's Gramian.

TorchJD's engines: autojac (the Jacobian of the shared parameters, `mtl_backward`) and autogram (the Gramian layer by layer, then one
backward pass of the weighted losses; the heads get their weighted gradients, as its documentation has it). LibMTL's weighting classes on
a model of our own: m backward passes with a retained graph, the rows copied into a matrix. Its CAGrad reshapes its weights to three tasks
whatever their number, so it is measured in the same steps written down again, under the name "LibMTL's way".
"""

from timing import medians_ms, report, threads

THREADS = threads()

import gc
import importlib.util
import random
import sys
import types
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import numpy
import torch
from scipy.optimize import minimize
from torch import nn
from torch.nn import functional as F
from torchjd.aggregation import MGDA, PCGrad, UPGrad, MGDAWeighting, UPGradWeighting
from torchjd.autogram import Engine
from torchjd.autojac import jac_to_grad, mtl_backward

torch.set_num_threads(THREADS)

TASKS = (2, 4, 8, 16, 32, 64)
CLASSES = 10


def libmtl_weightings():
    """LibMTL's weighting classes without the rest of the package, which imports torchvision."""
    folder = Path(importlib.util.find_spec("LibMTL").submodule_search_locations[0])
    for name in ("LibMTL", "LibMTL.weighting"):
        module = types.ModuleType(name)
        module.__path__ = [str(folder.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = module
    load = lambda name, kind: getattr(importlib.import_module(f"LibMTL.weighting.{name}"), kind)
    return {name: load(name, name) for name in ("MGDA", "PCGrad")}


def mlp():
    return nn.Sequential(nn.Linear(784, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh()), 256


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
    ), 400  # fmt: skip


MODELS = {"mlp": (mlp, (128, 784)), "cnn": (cnn, (64, 1, 28, 28))}


class Net:
    def __init__(self, make, shape, tasks):
        torch.manual_seed(0)
        self.body, width = make()
        self.heads = nn.ModuleList(nn.Linear(width, CLASSES) for _ in range(tasks))
        self.tasks, self.x = tasks, torch.randn(shape)
        i, j = torch.arange(shape[0])[:, None], torch.arange(tasks)[None, :]
        self.y = (i * (1 + j) + j) % CLASSES
        self.shared = list(self.body.parameters())

    def clear(self):
        for param in [*self.shared, *self.heads.parameters()]:
            param.grad = None
            if hasattr(param, "jac"):
                del param.jac

    def losses(self):
        z = self.body(self.x)
        return z, [F.cross_entropy(head(z), self.y[:, i]) for i, head in enumerate(self.heads)]

    def shared_gradient(self):
        return torch.cat([param.grad.flatten() for param in self.shared])


class LossOnly:
    def __init__(self, net):
        self.net = net

    def __call__(self):
        self.net.clear()
        (sum(self.net.losses()[1]) / self.net.tasks).backward()


class Autojac:
    def __init__(self, net, aggregator):
        self.net, self.aggregator = net, aggregator

    def __call__(self):
        self.net.clear()
        z, losses = self.net.losses()
        mtl_backward(losses, features=z)
        jac_to_grad(self.net.shared, self.aggregator)


class Autogram:
    def __init__(self, net, weighting):
        self.net, self.weighting = net, weighting
        self.engine = Engine(net.body, batch_dim=None)

    def __call__(self):
        self.net.clear()
        losses = torch.stack(self.net.losses()[1])
        losses.backward(self.weighting(self.engine.compute_gramian(losses)))


def libmtl(kind, net, options):
    """A weighting of LibMTL over the net's body."""

    class Weighted(kind):
        rep_grad, device = False, torch.device("cpu")

        def get_share_params(self):
            return iter(net.shared)

        def zero_grad_share_params(self):
            for param in net.shared:
                param.grad.zero_()

    weighted = Weighted()
    weighted.task_num = net.tasks
    weighted.init_param()

    def step():
        net.clear()
        weighted.backward(net.losses()[1], **options)

    return step


def cagrad(net, c=0.4):
    """LibMTL's CAGrad, for any number of tasks: its rows and its program, by its optimizer, with 3 for the number of tasks put right."""
    m = net.tasks

    def step():
        net.clear()
        losses = net.losses()[1]
        grads = torch.zeros(m, sum(param.numel() for param in net.shared))
        for i, loss in enumerate(losses):
            loss.backward(retain_graph=i + 1 < m)
            grads[i] = net.shared_gradient()
            for param in net.shared:
                param.grad.zero_()
        products = grads @ grads.t()
        a, start = products.numpy(), numpy.ones(m) / m
        size = (c * (products.mean() + 1e-8).sqrt() + 1e-8).item()

        def objective(w):
            return (w @ a @ start + size * numpy.sqrt(w @ a @ w + 1e-8)).sum()

        constraint = {"type": "eq", "fun": lambda w: 1 - sum(w)}
        w = torch.tensor(minimize(objective, start, bounds=[(0, 1)] * m, constraints=constraint).x, dtype=torch.float32)
        joint = (grads * w.view(-1, 1)).sum(0)
        joint = (grads.mean(0) + size / (joint.norm() + 1e-8) * joint) / (1 + c**2)
        for param, part in zip(net.shared, joint.split([param.numel() for param in net.shared])):
            param.grad.data = part.view_as(param).clone()

    return step


def peak_mb(net, run):
    """The most memory allocated at once during a call beyond what was there before, without gradients of an earlier one."""
    net.clear()
    gc.collect()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    current = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak / 1e6


def agree(name, what, a, b, bound=1e-3):
    error = ((a - b).norm() / a.norm()).item()
    if not error < bound:
        raise SystemExit(f"{name}: {what} differ by {error:.1e}")


def main():
    kinds = libmtl_weightings()
    for tasks in TASKS:
        for model, (make, shape) in MODELS.items():
            net, name = Net(make, shape, tasks), f"{model}, {tasks} tasks"
            # The engine's hooks stay: a net of its own.
            hooked = Net(make, shape, tasks)
            random.seed(0)
            runs = {
                ("torch", "loss only"): LossOnly(net),
                ("torchjd", "UPGrad, autojac"): Autojac(net, UPGrad()),
                ("torchjd", "UPGrad, autogram"): Autogram(hooked, UPGradWeighting()),
                ("torchjd", "MGDA, autojac"): Autojac(net, MGDA()),
                ("torchjd", "PCGrad, autojac"): Autojac(net, PCGrad()),
                ("libmtl", "MGDA"): libmtl(kinds["MGDA"], net, {"mgda_gn": "none"}),
                ("libmtl", "PCGrad"): libmtl(kinds["PCGrad"], net, {}),
                ("libmtl", "CAGrad, LibMTL's way"): cagrad(net),
            }
            # One engine for a net, with another weighting.
            other = Autogram.__new__(Autogram)
            other.__dict__.update(runs[("torchjd", "UPGrad, autogram")].__dict__, weighting=MGDAWeighting())
            runs[("torchjd", "MGDA, autogram")] = other

            gradients = {}
            for key, run in runs.items():
                run()
                gradients[key] = (hooked if "autogram" in key[1] else net).shared_gradient().clone()
            agree(name, "TorchJD's engines", *(gradients["torchjd", f"UPGrad, {e}"] for e in ("autojac", "autogram")))
            weights = torch.full((tasks,), 1.0 / tasks)
            runs["torch", "loss only"]()
            rows = torch.stack([
                torch.cat([g.flatten() for g in torch.autograd.grad(loss, net.shared, retain_graph=True)])
                for loss in net.losses()[1]
            ])
            agree(name, "the rows' mean and the gradient of the mean", weights @ rows, net.shared_gradient())
            gramian = runs["torchjd", "UPGrad, autogram"].engine.compute_gramian(torch.stack(hooked.losses()[1]))
            agree(name, "the rows' products and TorchJD's Gramian", rows @ rows.t(), gramian)

            for key in runs:
                # Each alone: the slowest take a hundred times as long as the fastest.
                ms = medians_ms({key: runs[key]}, warm_up=1, least=5, seconds=0.3)[key]
                mb = round(peak_mb(hooked if "autogram" in key[1] else net, runs[key]), 2)
                version = {"torch": torch.__version__, "torchjd": "0.18.0", "libmtl": "1.1.5"}[key[0]]
                report(model=name, peer=key[0], version=version, what=key[1], ms=ms, mb=mb)


if __name__ == "__main__":
    main()

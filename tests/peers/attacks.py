"""PGD-40 and AutoAttack by torchattacks and foolbox, and an epoch of Fast adversarial training in PyTorch, on MNIST.

Trains two small networks on MNIST, one as usual and one by Fast adversarial training, and leaves their weights and the test
images attacked beside the results, so that the bench attacks the same networks on the same images:
    FOLDER/attacks.json    names and shapes of the arrays of attacks.bin, in order
    FOLDER/attacks.bin     little-endian f32
FOLDER is $PEERS_FOLDER. MNIST's IDX files are read from $DATA_DIR/mnist; without them nothing is measured.

Prints JSON lines {"model": "standard|robust", "peer": ..., "what": "pgd|autoattack", "seconds": s, "standing": share still
classified right, "gradients": evaluations for one image} and {"model": "robust", "peer": "torch", "what": "fast epoch"}.
f32, CPU.
"""

from timing import median_ms, report, threads

THREADS = threads()

import gzip
import json
import os
import pathlib
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

torch.set_num_threads(THREADS)

EPSILON, STEP, STEPS = 0.3, 0.01, 40
PGD_IMAGES, ENSEMBLE_IMAGES, BATCH = 1000, 100, 128
EPOCHS = 4


def mnist():
    folder = pathlib.Path(os.environ.get("DATA_DIR") or "../shared/data") / "mnist"

    def read(name, header):
        for path, opener in ((folder / f"{name}.gz", gzip.open), (folder / name, open)):
            if path.exists():
                with opener(path, "rb") as file:
                    return np.frombuffer(file.read(), np.uint8, offset=header)
        print(f"no {name} in {folder}: attacks of peers are not measured", file=sys.stderr)
        sys.exit(0)

    def images(name):
        return torch.from_numpy(read(name, 16).reshape(-1, 1, 28, 28).astype(np.float32) / 255)

    def labels(name):
        return torch.from_numpy(read(name, 8).astype(np.int64))

    return (
        images("train-images-idx3-ubyte"), labels("train-labels-idx1-ubyte"),
        images("t10k-images-idx3-ubyte"), labels("t10k-labels-idx1-ubyte"),
    )  # fmt: skip


def network():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip


def epoch(model, optimizer, x, y, fast, rates):
    """One epoch; with fast, one step of size 1.25 epsilon from a uniform start (Wong, Rice, Kolter 2020)."""
    order = torch.randperm(len(x))
    for chosen, rate in zip(order.split(BATCH), rates):
        for group in optimizer.param_groups:
            group["lr"] = rate
        images, labels = x[chosen], y[chosen]
        if fast:
            delta = torch.empty_like(images).uniform_(-EPSILON, EPSILON).requires_grad_()
            loss = F.cross_entropy(model((images + delta).clamp(0, 1)), labels)
            (gradient,) = torch.autograd.grad(loss, delta)
            delta = (delta + 1.25 * EPSILON * gradient.sign()).clamp(-EPSILON, EPSILON).detach()
            images = (images + delta).clamp(0, 1)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()


def train(x, y, fast):
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    steps = -(-len(x) // BATCH) * EPOCHS
    rates = iter(np.interp(np.arange(steps), [0, 0.3 * steps, steps], [1e-4, 2e-3, 0]))
    seconds = []
    for _ in range(EPOCHS):
        start = time.perf_counter()
        epoch(model, optimizer, x, y, fast, rates)
        seconds.append(time.perf_counter() - start)
    return model.eval(), min(seconds)


class Count(torch.autograd.Function):
    """The identity, which counts the examples whose gradient passes."""

    gradients = 0

    @staticmethod
    def forward(context, x):
        return x.view_as(x)

    @staticmethod
    def backward(context, gradient):
        Count.gradients += len(gradient)
        return gradient


class Counted(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(Count.apply(x))


def batches(attack, x, y):
    return torch.cat([attack(a, b) for a, b in zip(x.split(BATCH), y.split(BATCH))])


def main():
    folder = pathlib.Path(os.environ["PEERS_FOLDER"])
    import foolbox
    import torchattacks

    x, y, test_x, test_y = mnist()
    arrays = {"images": test_x[:PGD_IMAGES], "labels": test_y[:PGD_IMAGES].float()}
    for name, fast in (("standard", False), ("robust", True)):
        model, seconds = train(x, y, fast)
        if fast:
            report(model=name, peer="torch", what="fast epoch", seconds=seconds)
        arrays |= {f"{name}.{key}": value for key, value in model.state_dict().items()}
        counted = Counted(model).eval()

        def measure(peer, what, count, attack):
            images, labels = test_x[:count], test_y[:count]
            torch.manual_seed(1)
            Count.gradients, start = 0, time.perf_counter()
            adversarial = batches(attack, images, labels)
            seconds = time.perf_counter() - start
            with torch.no_grad():
                standing = (model(adversarial).argmax(1) == labels).float().mean().item()
            gradients = Count.gradients / count
            report(model=name, peer=peer, what=what, seconds=seconds, standing=standing, gradients=gradients)

        with torch.no_grad():
            clean = (model(test_x[:PGD_IMAGES]).argmax(1) == test_y[:PGD_IMAGES]).float().mean().item()
        report(model=name, peer="torch", what="clean", standing=clean)
        some = test_x[:BATCH]

        def gradient():
            images = some.clone().requires_grad_()
            torch.autograd.grad(model(images).sum(), images)

        for parameter in model.parameters():
            parameter.requires_grad_(False)
        report(model=name, peer="torch", what="gradient", ms=median_ms(gradient))
        measure("torchattacks", "pgd", PGD_IMAGES, torchattacks.PGD(counted, eps=EPSILON, alpha=STEP, steps=STEPS))
        pgd = foolbox.attacks.LinfPGD(steps=STEPS, abs_stepsize=STEP)
        wrapped = foolbox.PyTorchModel(counted, bounds=(0, 1))
        measure("foolbox", "pgd", PGD_IMAGES, lambda a, b: pgd(wrapped, a, b, epsilons=EPSILON)[1])
        standard = torchattacks.AutoAttack(counted, norm="Linf", eps=EPSILON, n_classes=10, seed=0)
        measure("torchattacks", "autoattack", ENSEMBLE_IMAGES, standard)

    folder.mkdir(parents=True, exist_ok=True)
    order = [{"name": name, "shape": list(array.shape)} for name, array in arrays.items()]
    with open(folder / "attacks.bin", "wb") as file:
        for array in arrays.values():
            file.write(array.detach().numpy().astype("<f4").tobytes())
    (folder / "attacks.json").write_text(json.dumps(order))


main()

"""Hypergradients on the digits in JAX, PyTorch, TorchOpt and betty: implicit differentiation and unrolled steps.

Prints JSON lines {"model": "logistic|decays|weights", "peer": "jax|torch|torchopt|betty", "what": method, "ms": median, "error": ‖h − r‖/‖r‖}
with r in f64: the implicit hypergradient with its system solved, or the derivative of the same steps. Before them
{"peer": "torch", "what": "reference ...", "norm": ‖r‖}, which the bench holds against its own. f32, CPU.

    logistic   64 decays, one a pixel, of a softmax regression on 1000 digits, at its solution
    decays     4 decays, one a tensor, of a network 64-128-10 with tanh on 1000 digits, after 200 steps with momentum
    weights    500 weights of the examples of such a network's training set

JAX: `jax.linearize` of the gradient, `lax.scan` of the steps (with `jax.checkpoint` for √T), `jacfwd`; all under `jit`. PyTorch: double backward on a
retained graph, steps with `create_graph`. TorchOpt: `custom_root` with its `solve_cg` and `solve_inv` (a Neumann series), steps of its `sgd`.
betty: `Problem.backward` of an outer problem whose inner one is configured for CG or Neumann; it has no unrolled steps. Its CG knows no damping, so
that the inner loss has it, as a proximal term. Its directions are `p = r + βp` with the residual from before the step, so that they are not conjugate and
its error grows with the iterations: it is timed as it is, and its error reported.
"""

from timing import medians_ms, report, threads

THREADS = threads()

import gzip
import logging
import math
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn.functional import log_softmax

torch.set_num_threads(THREADS)

DIGITS = Path(__file__).parents[2] / "crates/lab/data/digits.csv.gz"
HIDDEN, CLASSES = 128, 10
STEPS = (20, 100)


def lcg(n):
    """The start of the network, the same in every language."""
    values, state = np.empty(n), 1
    for i in range(n):
        state = (state * 1664525 + 1013904223) % 2**32
        values[i] = state / 2**32 - 0.5
    return values


def network():
    values = 0.5 * lcg(64 * HIDDEN + HIDDEN * CLASSES)
    first, second = values[: 64 * HIDDEN].reshape(64, HIDDEN), values[64 * HIDDEN :].reshape(HIDDEN, CLASSES)
    return [first, np.zeros(HIDDEN), second, np.zeros(CLASSES)]


# The objectives, in the words that NumPy's descendants share: `lib` is torch or jax.numpy.


def entropies(lib, logits, hot):
    logs = log_softmax(logits, 1) if lib is torch else jax.nn.log_softmax(logits, 1)
    return -(logs * hot).sum(1)


def mlp(lib, z, pixels):
    return lib.tanh(pixels @ z[0] + z[1]) @ z[2] + z[3]


def squares(z):
    return [(leaf * leaf).sum() for leaf in z]


class Logistic:
    name, train, rate, damping = "logistic", 1000, 0.5, 0.0
    forward = True

    def start(self):
        return [np.zeros((64, CLASSES))]

    def x(self):
        return np.full(64, -4.0)

    def inner(self, lib, x, z, data):
        decay = 0.5 * (lib.exp(x)[:, None] * z[0] * z[0]).sum()
        return entropies(lib, data[0] @ z[0], data[1]).mean() + decay

    def outer(self, lib, z, data):
        return entropies(lib, data[0] @ z[0], data[1]).mean()


class Decays:
    name, train, rate, damping = "decays", 1000, 0.1, 0.05
    forward = True

    def start(self):
        return network()

    def x(self):
        return np.full(4, -5.0)

    def inner(self, lib, x, z, data):
        decay = 0.5 * sum(lib.exp(x[i]) * square for i, square in enumerate(squares(z)))
        return entropies(lib, mlp(lib, z, data[0]), data[1]).mean() + decay

    def outer(self, lib, z, data):
        return entropies(lib, mlp(lib, z, data[0]), data[1]).mean()


class Weights(Decays):
    name, train = "weights", 500
    forward = False

    def x(self):
        return np.zeros(500)

    def inner(self, lib, x, z, data):
        weight = torch.sigmoid(x) if lib is torch else jax.nn.sigmoid(x)
        decay = 0.5 * math.exp(-5.0) * sum(squares(z))
        return (weight * entropies(lib, mlp(lib, z, data[0]), data[1])).mean() + decay


CASES = (Logistic(), Decays(), Weights())


def dot(a, b):
    return sum((x * y).sum() for x, y in zip(a, b))


def conjugate_gradients(product, b, iterations, tolerance=0.0):
    x = [torch.zeros_like(leaf) for leaf in b]
    r, p = list(b), list(b)
    rr = dot(r, r)
    stop = tolerance**2 * rr
    for _ in range(iterations):
        if tolerance and rr <= stop:
            break
        image = product(p)
        alpha = rr / dot(p, image)
        x = [a + alpha * c for a, c in zip(x, p)]
        r = [a - alpha * c for a, c in zip(r, image)]
        before, rr = rr, dot(r, r)
        p = [a + rr / before * c for a, c in zip(r, p)]
    return x


def neumann(product, b, iterations, step):
    term = total = b
    for _ in range(iterations):
        term = [a - step * c for a, c in zip(term, product(term))]
        total = [a + c for a, c in zip(total, term)]
    return [step * a for a in total]


class Torch:
    """Plain autograd."""

    def __init__(self, case, dtype, digits, z=None):
        cast = lambda a: torch.tensor(a, dtype=dtype)
        self.case = case
        self.train, self.test = ([cast(a) for a in part] for part in digits)
        self.x = cast(case.x()).requires_grad_()
        self.start = [cast(a) for a in case.start()]
        self.z = None if z is None else [a.to(dtype) for a in z]

    def inner(self, x, z):
        return self.case.inner(torch, x, z, self.train)

    def outer(self, z):
        return self.case.outer(torch, z, self.test)

    def gradient(self):
        z = [a.detach().requires_grad_() for a in self.z]
        return torch.autograd.grad(self.inner(self.x, z), [self.x, *z])

    def product(self):
        z = [a.detach().requires_grad_() for a in self.z]
        gradient = torch.autograd.grad(self.inner(self.x, z), z, create_graph=True)
        return torch.autograd.grad(gradient, [self.x, *z], grad_outputs=self.z)

    def solution(self):
        """The solved inner problem, or the point after 200 steps with momentum."""
        z = [a.clone() for a in self.start]
        if self.case.name == "logistic":
            for _ in range(30):
                zs = [a.detach().requires_grad_() for a in z]
                gradient = torch.autograd.grad(self.inner(self.x, zs), zs, create_graph=True)
                b = [g.detach() for g in gradient]
                if dot(b, b) < 1e-22:
                    return z
                product = lambda v: torch.autograd.grad(gradient, zs, grad_outputs=v, retain_graph=True)
                z = [a - c for a, c in zip(z, conjugate_gradients(product, b, 2000, 1e-13))]
            raise SystemExit("Newton's method did not end")
        memory = [torch.zeros_like(a) for a in z]
        for _ in range(200):
            zs = [a.detach().requires_grad_() for a in z]
            gradient = torch.autograd.grad(self.inner(self.x, zs), zs)
            memory = [0.9 * m + g for m, g in zip(memory, gradient)]
            z = [a - 0.1 * m for a, m in zip(z, memory)]
        return z

    def implicit(self, solve):
        z = [a.detach().requires_grad_() for a in self.z]
        b = torch.autograd.grad(self.outer(z), z)
        gradient = torch.autograd.grad(self.inner(self.x, z), z, create_graph=True)

        def product(v):
            image = torch.autograd.grad(gradient, z, grad_outputs=v, retain_graph=True)
            return [h + self.case.damping * a for h, a in zip(image, v)] if self.case.damping else image

        v = solve(product, b)
        return -torch.autograd.grad(gradient, self.x, grad_outputs=v)[0]

    def unroll(self, steps):
        z = [a.detach().requires_grad_() for a in self.start]
        for _ in range(steps):
            gradient = torch.autograd.grad(self.inner(self.x, z), z, create_graph=True)
            z = [a - self.case.rate * g for a, g in zip(z, gradient)]
        return torch.autograd.grad(self.outer(z), self.x)[0]

    def runs(self):
        runs = {
            "gradient": self.gradient,
            "gradient and product": self.product,
            "CG, 10 products": lambda: self.implicit(lambda a, b: conjugate_gradients(a, b, 10)),
            "CG, 20 products": lambda: self.implicit(lambda a, b: conjugate_gradients(a, b, 20)),
            "Neumann, 20 products": lambda: self.implicit(lambda a, b: neumann(a, b, 20, self.case.rate)),
        }
        return runs | {f"reverse, {steps} steps": lambda steps=steps: self.unroll(steps) for steps in STEPS}


class TorchOpt(Torch):
    def root(self, solve):
        import torchopt

        def optimality(z, x):
            return torch.func.grad(lambda z: self.inner(x, z))(z)

        # What would solve the inner problem: it is solved.
        solver = torchopt.diff.implicit.custom_root(optimality, argnums=1, solve=solve)(lambda z, x: z)

        def run():
            z = solver(tuple(self.z), self.x)
            return torch.autograd.grad(self.outer(z), self.x)[0]

        return run

    def steps(self, steps):
        import torchopt

        optimizer = torchopt.sgd(self.case.rate)
        z = tuple(a.detach().requires_grad_() for a in self.start)
        state = optimizer.init(z)
        for _ in range(steps):
            gradient = torch.autograd.grad(self.inner(self.x, z), z, create_graph=True)
            updates, state = optimizer.update(gradient, state, inplace=False)
            z = torchopt.apply_updates(z, updates, inplace=False)
        return torch.autograd.grad(self.outer(z), self.x)[0]

    def runs(self):
        from torchopt.linear_solve import solve_cg, solve_inv

        ridge = {"ridge": self.case.damping} if self.case.damping else {}
        runs = {
            f"CG, {count} products": self.root(solve_cg(maxiter=count, rtol=0.0, **ridge)) for count in (10, 20)
        }
        runs["Neumann, 20 products"] = self.root(solve_inv(ns=True, maxiter=20, alpha=self.case.rate, **ridge))
        return runs | {f"reverse, {steps} steps": lambda steps=steps: self.steps(steps) for steps in STEPS}


class Module(torch.nn.Module):
    def __init__(self, leaves):
        super().__init__()
        self.leaves = torch.nn.ParameterList(torch.nn.Parameter(leaf.detach().clone()) for leaf in leaves)


class Betty(Torch):
    def engine(self, **config):
        from betty.configs import Config, EngineConfig
        from betty.engine import Engine
        from betty.problems import ImplicitProblem

        case, train, test = self.case, self.train, self.test

        class Outer(ImplicitProblem):
            def training_step(self, batch):
                return case.outer(torch, list(self.lower.module.leaves), test)

        class Lower(ImplicitProblem):
            def training_step(self, batch):
                z = list(self.module.leaves)
                loss = case.inner(torch, self.upper.module.leaves[0], z, train)
                if not case.damping:
                    return loss
                return loss + 0.5 * case.damping * sum(((a - a.detach()) ** 2).sum() for a in z)

        def problem(kind, name, leaves, config):
            module = Module(leaves)
            optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
            return kind(name, config, module, optimizer, None, [(torch.zeros(1),)], "cpu")

        upper = problem(Outer, "upper", [self.x], Config())
        lower = problem(Lower, "lower", self.z, Config(**config))
        dependencies = {"l2u": {lower: [upper]}, "u2l": {upper: [lower]}}
        Engine([upper, lower], EngineConfig(train_iters=1), dependencies)
        lower.cur_batch = upper.cur_batch = None
        (x,) = upper.trainable_parameters()

        def run():
            x.grad = None
            loss, _ = upper.get_loss(None)
            upper.backward(loss, upper.trainable_parameters(), upper.paths, retain_graph=True, allow_unused=True)
            return x.grad

        return run

    def runs(self):
        runs = {f"CG, {count} products": self.engine(type="cg", cg_iterations=count) for count in (10, 20)}
        series = {"neumann_iterations": 20, "neumann_alpha": self.case.rate}
        runs["Neumann, 20 products"] = self.engine(type="neumann", **series)
        return runs


class Jax:
    def __init__(self, case, digits, z):
        cast = lambda a: jnp.asarray(np.asarray(a, np.float32))
        self.case = case
        self.data = tuple([cast(a) for a in part] for part in digits)
        self.x, self.start, self.z = cast(case.x()), [cast(a) for a in case.start()], [cast(a) for a in z]

    def inner(self, x, z, data):
        return self.case.inner(jnp, x, z, data[0])

    def outer(self, z, data):
        return self.case.outer(jnp, z, data[1])

    def implicit(self, solve):
        def run(x, z, data):
            slope = lambda x, z: jax.grad(self.inner, 1)(x, z, data)
            b = jax.grad(self.outer)(z, data)
            _, hessian = jax.linearize(lambda z: slope(x, z), z)
            add = lambda h, a: h + self.case.damping * a
            v = solve(lambda v: jax.tree.map(add, hessian(v), v), b)
            return -jax.vjp(lambda x: slope(x, z), x)[1](v)[0]

        return self.ready(run, self.z)

    def cg(self, iterations):
        def solve(product, b):
            def step(carry, _):
                x, r, p, rr = carry
                image = product(p)
                alpha = rr / dot(p, image)
                x = [a + alpha * c for a, c in zip(x, p)]
                r = [a - alpha * c for a, c in zip(r, image)]
                after = dot(r, r)
                p = [a + after / rr * c for a, c in zip(r, p)]
                return (x, r, p, after), None

            start = ([jnp.zeros_like(a) for a in b], b, b, dot(b, b))
            return jax.lax.scan(step, start, None, iterations)[0][0]

        return self.implicit(solve)

    def series(self, iterations):
        def solve(product, b):
            def step(carry, _):
                term, total = carry
                term = [a - self.case.rate * c for a, c in zip(term, product(term))]
                return (term, [a + c for a, c in zip(total, term)]), None

            total = jax.lax.scan(step, (b, b), None, iterations)[0][1]
            return [self.case.rate * a for a in total]

        return self.implicit(solve)

    def end(self, steps, pieces=None):
        def run(x, z, data):
            def step(z, _):
                gradient = jax.grad(self.inner, 1)(x, z, data)
                return [a - self.case.rate * g for a, g in zip(z, gradient)], None

            if pieces is None:
                z = jax.lax.scan(step, z, None, steps)[0]
            else:
                piece = jax.checkpoint(lambda z, _: jax.lax.scan(step, z, None, steps // pieces))
                z = jax.lax.scan(piece, z, None, pieces)[0]
            return self.outer(z, data)

        return run

    def ready(self, run, z):
        compiled = jax.jit(run)
        return lambda: jax.block_until_ready(compiled(self.x, z, self.data))

    def runs(self):
        def gradient(x, z, data):
            return jax.grad(self.inner, (0, 1))(x, z, data)

        def product(x, z, data):
            along = (jnp.zeros_like(x), z)
            return jax.jvp(lambda x, z: gradient(x, z, data), (x, z), along)

        runs = {
            "gradient": self.ready(gradient, self.z),
            "gradient and product": self.ready(product, self.z),
            "CG, 10 products": self.cg(10),
            "CG, 20 products": self.cg(20),
            "Neumann, 20 products": self.series(20),
        }
        for steps in STEPS:
            runs[f"reverse, {steps} steps"] = self.ready(jax.grad(self.end(steps)), self.start)
        runs["reverse with √T checkpoints, 100 steps"] = self.ready(jax.grad(self.end(100, 10)), self.start)
        if self.case.forward:
            runs["forward, 20 steps"] = self.ready(jax.jacfwd(self.end(20)), self.start)
        return runs


def main():
    logging.disable(logging.CRITICAL)
    rows = np.array([line.split(",") for line in gzip.open(DIGITS, "rt").read().split()], np.float64)
    pixels, hot = rows[:, :64] / 16, np.eye(CLASSES)[rows[:, 64].astype(int)]
    import betty
    import torchopt

    versions = {"torch": torch.__version__, "torchopt": torchopt.__version__, "betty": "0.1.1", "jax": jax.__version__}
    for case in CASES:
        digits = ((pixels[: case.train], hot[: case.train]), (pixels[1000:], hot[1000:]))
        exact = Torch(case, torch.float64, digits)
        exact.z = exact.solution()
        solved = lambda product, b: conjugate_gradients(product, b, 5000, 1e-12)
        references = {"implicit": exact.implicit(solved)}
        references |= {f"{steps} steps": exact.unroll(steps) for steps in STEPS}
        for name, reference in references.items():
            report(model=case.name, peer="torch", what=f"reference {name}", norm=reference.norm().item())

        peers = {
            "torch": Torch(case, torch.float32, digits, exact.z),
            "torchopt": TorchOpt(case, torch.float32, digits, exact.z),
            "betty": Betty(case, torch.float32, digits, exact.z),
            "jax": Jax(case, digits, exact.z),
        }
        runs = {(peer, what): run for peer, of in peers.items() for what, run in of.runs().items()}
        errors = {}
        for (peer, what), run in runs.items():
            if "gradient" in what:
                continue
            reference = references[what.split(", ")[1] if "steps" in what else "implicit"].numpy()
            result = run()
            found = np.asarray(result.detach() if torch.is_tensor(result) else result, np.float64)
            errors[peer, what] = float(np.linalg.norm(found - reference) / np.linalg.norm(reference))
            if not errors[peer, what] < 0.9 and not (peer == "betty" and what.startswith("CG")):
                sys.exit(f"{case.name}, {peer}: {what} is {errors[peer, what]:.1e} from the reference")
        for key, run in runs.items():
            # Each alone: a method of a hundred steps leaves cold caches to a gradient after it.
            ms = medians_ms({key: run}, warm_up=1, least=7, seconds=0.3)[key]
            more = {"error": errors[key]} if key in errors else {}
            report(model=case.name, peer=key[0], version=versions[key[0]], what=key[1], ms=ms, **more)


if __name__ == "__main__":
    main()

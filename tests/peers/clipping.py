"""Clipping a whole model's gradient in PyTorch (foreach) and optax (jitted): 200 tensors, 25 M f32 in all.

Prints JSON lines {"clipping": rule, "peer": "torch|optax", "ms": median, "copies": time in units of one copy of the
tree's bytes}. A copy reads and writes every byte once. Before timing, the two must agree.
"""

from timing import medians_ms, report, threads

THREADS = threads()

import jax
import jax.numpy as jnp
import optax
import torch

torch.set_num_threads(THREADS)
torch.manual_seed(0)

LEAVES, SHAPE = 200, (250, 500)


def parameters():
    params = [torch.nn.Parameter(torch.empty(SHAPE)) for _ in range(LEAVES)]
    for param in params:
        param.grad = torch.randn(SHAPE)
    return params


class Optax:
    """Clips what it made of the last gradient, in the memory that it gives up, or always the same gradient."""

    def __init__(self, rule, grads, donate=False):
        state = rule.init(grads)
        clip = lambda grads: rule.update(grads, state)[0]
        self.grads, self.donate = grads, donate
        self.clip = jax.jit(clip, donate_argnums=0) if donate else jax.jit(clip)

    def __call__(self):
        clipped = jax.block_until_ready(self.clip(self.grads))
        if self.donate:
            self.grads = clipped
        return clipped


def main():
    params = parameters()
    # JAX may share a tensor's memory, and PyTorch writes to it.
    arrays = lambda: [jnp.array(param.grad.numpy(), copy=True) for param in params]
    by_norm, by_value = optax.clip_by_global_norm(1.0), optax.clip(0.01)

    source = torch.cat([param.grad.flatten() for param in params])
    target = torch.empty_like(source)

    expected = Optax(by_norm, arrays())()
    optax_runs = {
        "clip_by_global_norm": Optax(by_norm, arrays()),
        "clip_by_global_norm, memory donated": Optax(by_norm, arrays(), donate=True),
        "clip": Optax(by_value, arrays()),
    }
    torch.nn.utils.clip_grad_norm_(params, 1.0, foreach=True)
    for param, other in zip(params, expected):
        error = (param.grad - torch.from_dlpack(other)).abs().max().item()
        if not error < 1e-6:
            raise SystemExit(f"PyTorch and optax differ by {error:.1e}")
    torch_runs = {
        "copy": lambda: target.copy_(source),
        "clip_grad_norm_": lambda: torch.nn.utils.clip_grad_norm_(params, 1.0, foreach=True),
        "clip_grad_value_": lambda: torch.nn.utils.clip_grad_value_(params, 0.01, foreach=True),
    }
    # One after the other: the thread pools of the two disturb each other.
    times = medians_ms(torch_runs) | medians_ms(optax_runs)
    for peer, version, runs in (("torch", torch.__version__, torch_runs), ("optax", optax.__version__, optax_runs)):
        for name in runs:
            copies = round(times[name] / times["copy"], 3)
            report(clipping=name, peer=peer, version=version, ms=times[name], copies=copies)


if __name__ == "__main__":
    main()

"""Gradient, and (loss, gradient, Hessian-vector product) at once, in JAX (jitted) and PyTorch (double backward).

Prints JSON lines {"model": "mlp|cnn|transformer", "peer": "jax|torch", "what": "grad|hvp", "ms": median}. f32, CPU.
Before timing, loss, gradient and product of the two must agree.
"""

from timing import median_ms, report, threads

THREADS = threads()

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

torch.set_num_threads(THREADS)
torch.manual_seed(0)

HEADS, WIDTH, HIDDEN, CLASSES = 4, 64, 128, 10


# The models in PyTorch.


def torch_mlp():
    return nn.Sequential(
        nn.Linear(784, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, CLASSES)
    )


def torch_cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, CLASSES),
    )  # fmt: skip


class TorchTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.TransformerEncoderLayer(
            WIDTH, HEADS, HIDDEN, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.head(self.block(x).mean(dim=1))


# The same in JAX, on PyTorch's parameters by name.


def linear(p, name, x):
    return x @ p[name + "weight"].T + p[name + "bias"]


def jax_mlp(p, x):
    x = jnp.tanh(linear(p, "0.", x))
    x = jnp.tanh(linear(p, "2.", x))
    return linear(p, "4.", x)


def conv(p, name, x):
    y = jax.lax.conv_general_dilated(
        x, p[name + "weight"], (1, 1), "VALID", dimension_numbers=("NCHW", "OIHW", "NCHW")
    )
    return y + p[name + "bias"][None, :, None, None]


def max_pool(x):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")


def jax_cnn(p, x):
    x = max_pool(jax.nn.relu(conv(p, "0.", x)))
    x = max_pool(jax.nn.relu(conv(p, "3.", x)))
    return linear(p, "7.", x.reshape(x.shape[0], -1))


def layer_norm(p, name, x):
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * p[name + "weight"] + p[name + "bias"]


def attention(p, name, x):
    batch, length, width = x.shape
    qkv = x @ p[name + "in_proj_weight"].T + p[name + "in_proj_bias"]
    split = lambda t: t.reshape(batch, length, HEADS, width // HEADS).transpose(0, 2, 1, 3)
    q, k, v = map(split, jnp.split(qkv, 3, axis=-1))
    weights = jax.nn.softmax(q @ k.transpose(0, 1, 3, 2) / np.sqrt(width // HEADS))
    mixed = (weights @ v).transpose(0, 2, 1, 3).reshape(batch, length, width)
    return linear(p, name + "out_proj.", mixed)


def jax_transformer(p, x):
    x = x + attention(p, "block.self_attn.", layer_norm(p, "block.norm1.", x))
    y = linear(p, "block.linear1.", layer_norm(p, "block.norm2.", x))
    x = x + linear(p, "block.linear2.", jax.nn.gelu(y, approximate=False))
    return linear(p, "head.", x.mean(axis=1))


MODELS = {
    "mlp": (torch_mlp, jax_mlp, (128, 784)),
    "cnn": (torch_cnn, jax_cnn, (64, 1, 28, 28)),
    "transformer": (TorchTransformer, jax_transformer, (16, 32, WIDTH)),
}


class Jax:
    def __init__(self, forward, params, x, y, v):
        array = lambda t: jnp.asarray(t.detach().numpy())
        self.p = {name: array(value) for name, value in params.items()}
        self.v = {name: array(value) for name, value in v.items()}
        self.x, self.y = array(x), array(y)

        def loss(p, x, y):
            log_probability = jax.nn.log_softmax(forward(p, x))
            return -jnp.take_along_axis(log_probability, y[:, None], axis=1).mean()

        value_and_grad = jax.value_and_grad(loss)
        self.value_and_grad = jax.jit(value_and_grad)
        self.both = jax.jit(
            lambda p, v, x, y: jax.jvp(lambda p: value_and_grad(p, x, y), (p,), (v,))
        )

    def grad(self):
        return jax.block_until_ready(self.value_and_grad(self.p, self.x, self.y))

    def hvp(self):
        return jax.block_until_ready(self.both(self.p, self.v, self.x, self.y))

    def arrays(self):
        (loss, grad), (_, product) = self.hvp()
        tree = lambda t: {name: np.asarray(value) for name, value in t.items()}
        return float(loss), tree(grad), tree(product)


class Torch:
    def __init__(self, model, x, y, v):
        self.model, self.x, self.y = model, x, y
        self.names, self.params = zip(*model.named_parameters())
        self.v = [v[name] for name in self.names]

    def loss(self):
        return F.cross_entropy(self.model(self.x), self.y)

    def grad(self):
        loss = self.loss()
        return loss, torch.autograd.grad(loss, self.params)

    def hvp(self):
        # The fused attention has no second derivative.
        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
            loss = self.loss()
            grad = torch.autograd.grad(loss, self.params, create_graph=True)
            product = torch.autograd.grad(grad, self.params, grad_outputs=self.v)
        return loss, grad, product

    def arrays(self):
        loss, grad, product = self.hvp()
        tree = lambda t: {name: value.detach().numpy() for name, value in zip(self.names, t)}
        return loss.item(), tree(grad), tree(product)


def flat(tree):
    return np.concatenate([tree[name].ravel() for name in sorted(tree)])


def check_agreement(name, ours, theirs):
    for what, a, b in zip(("loss", "gradient", "H·v"), ours, theirs):
        a, b = (np.array([t]) if isinstance(t, float) else flat(t) for t in (a, b))
        error = np.linalg.norm(a - b) / np.linalg.norm(a)
        if not error < 1e-3:
            raise SystemExit(f"{name}: JAX and PyTorch differ in the {what} by {error:.1e}")


def main():
    for name, (make, forward, shape) in MODELS.items():
        model = make()
        x = torch.randn(shape)
        y = torch.randint(CLASSES, shape[:1])
        v = {key: torch.randn_like(value) for key, value in model.named_parameters()}
        peers = {
            "jax": Jax(forward, dict(model.named_parameters()), x, y, v),
            "torch": Torch(model, x, y, v),
        }
        check_agreement(name, peers["jax"].arrays(), peers["torch"].arrays())
        versions = {"jax": jax.__version__, "torch": torch.__version__}
        for peer, runs in peers.items():
            for what, run in (("grad", runs.grad), ("hvp", runs.hvp)):
                report(model=name, peer=peer, version=versions[peer], what=what, ms=median_ms(run))


if __name__ == "__main__":
    main()

"""Vector operations over a whole model's parameters in PyTorch: its foreach functions on 200 tensors, 25 M f32 in all.

Prints JSON lines {"tree": "axpy|scale|dot|norm", "peer": "torch", "ms": median, "copies": time in units
of one copy of the tree's bytes}. A copy reads and writes every byte once.
"""

from timing import medians_ms, report, threads

THREADS = threads()

import torch

torch.set_num_threads(THREADS)
torch.manual_seed(0)

LEAVES, LEAF = 200, 125_000


def main():
    leaves = lambda: [torch.randn(LEAF) for _ in range(LEAVES)]
    x, y = leaves(), leaves()
    source, target = torch.cat(x), torch.cat(y)

    operations = {
        "copy": lambda: target.copy_(source),
        # Factors that keep the values in range however often this runs.
        "axpy": lambda: torch._foreach_add_(y, x, alpha=1e-6),
        "scale": lambda: torch._foreach_mul_(y, 0.9999),
        "dot": lambda: torch.stack([torch.dot(a, b) for a, b in zip(x, y)]).sum(),
        "norm": lambda: torch.linalg.vector_norm(torch.stack(torch._foreach_norm(x))),
    }
    times = medians_ms(operations)
    for name, ms in times.items():
        copies = round(ms / times["copy"], 3)
        report(tree=name, peer="torch", version=torch.__version__, ms=ms, copies=copies)


if __name__ == "__main__":
    main()

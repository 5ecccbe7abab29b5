"""Casts to narrow formats and unscaling in PyTorch, casts in ml_dtypes: 16 M f32 elements.

Prints JSON lines {"precision": operation, "peer": "torch|ml_dtypes", "ms": median, "copies": time in units of one copy of
the elements' bytes by PyTorch}. A copy reads and writes every byte once. Before timing, the two must agree.
"""

from timing import medians_ms, report, threads

THREADS = threads()

import ml_dtypes
import numpy
import torch

torch.set_num_threads(THREADS)

ELEMENTS = 1 << 24
FORMATS = [("bf16", torch.bfloat16, ml_dtypes.bfloat16), ("e4m3fn", torch.float8_e4m3fn, ml_dtypes.float8_e4m3fn)]
FORMATS += [("e5m2", torch.float8_e5m2, ml_dtypes.float8_e5m2)]


def main():
    sizes = torch.exp2(torch.arange(ELEMENTS) * 7919 % 16_000 * 1e-3 - 12.0)
    x = torch.where(torch.arange(ELEMENTS) % 2 == 0, sizes, -sizes)
    target, array = torch.empty_like(x), x.numpy()

    torch_runs = {"copy": lambda: target.copy_(x)}
    numpy_runs = {}
    for name, dtype, other in FORMATS:
        packed, stored = x.to(dtype), array.astype(other)
        if not (packed.float().numpy() == stored.astype(numpy.float32)).all():
            raise SystemExit(f"PyTorch and ml_dtypes differ in {name}")
        torch_runs[f"fake quantisation: {name}"] = lambda dtype=dtype: x.to(dtype).to(torch.float32)
        torch_runs[f"pack: {name}"] = lambda dtype=dtype: x.to(dtype)
        torch_runs[f"unpack: {name}"] = lambda packed=packed: packed.to(torch.float32)
        numpy_runs[f"pack: {name}"] = lambda other=other: array.astype(other)
        numpy_runs[f"unpack: {name}"] = lambda stored=stored: stored.astype(numpy.float32)

    grads, found, inverse = [x.clone()], torch.zeros(1), torch.ones(1)

    def unscale():
        torch._amp_foreach_non_finite_check_and_unscale_(grads, found, inverse)

    torch_runs["unscale and finite"] = unscale
    torch_runs["unscale and finite, then norm"] = lambda: (unscale(), torch.linalg.vector_norm(grads[0]))

    # One after the other: the thread pools of the two disturb each other.
    copy = None
    for peer, version, runs in (
        ("torch", torch.__version__, torch_runs),
        ("ml_dtypes", ml_dtypes.__version__, numpy_runs),
    ):
        times = medians_ms(runs)
        copy = copy or times["copy"]
        for name, ms in times.items():
            report(precision=name, peer=peer, version=version, ms=ms, copies=round(ms / copy, 3))


if __name__ == "__main__":
    main()

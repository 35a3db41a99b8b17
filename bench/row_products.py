"""A decoder's products by kernel and number of rows: what `models.linear.Product` chooses among.

    python bench/row_products.py

Weights of six layers of the 12-layer 1024-wide model, cycled so that they come from memory, in numbers that
float16 holds; kernels in turns in one process, medians, scaled to twelve layers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cadence.models.int8 import Int8Product, int8_works
from cadence.models.linear import Product, pack_half, pack_weight, packed_linear

SHAPES = [(1536, 1024), (1024, 1024), (5632, 1024), (1024, 2816)]  # qkv, out, gate and up, down
LAYERS = 6

Kernel = Callable[[Tensor], Tensor]


def kernels(weight: Tensor) -> dict[str, Kernel]:
    """Every way to multiply with a weight on this machine."""
    columns = weight.t().contiguous().t()
    found: dict[str, Kernel] = {
        "plain": lambda x: F.linear(x, weight),
        "column after column": lambda x: F.linear(x, columns),
    }
    if (packed := pack_weight(weight)) is not None:
        found["oneDNN packed"] = lambda x: packed_linear(x, packed, None)
    if pack_half(weight) is not None:
        found["float16 weights"] = Product(weight)
    if int8_works():
        found["int8 (not exact)"] = Int8Product(weight, None)
    return found


@torch.inference_mode()
def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", default="1,2,4,8,16,64")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    sizes = SHAPES * LAYERS
    products = [kernels((torch.randn(shape) / shape[1] ** 0.5).half().float()) for shape in sizes]
    names = list(products[0])
    print(f"| rows | {' | '.join(names)} |")
    print("| --- " * (len(names) + 1) + "|")
    for rows in map(int, options.rows.split(",")):
        inputs = [torch.randn(rows, width) for _, width in sizes]
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(options.rounds):
            for name in names:
                begin = time.perf_counter()
                for product, x in zip(products, inputs, strict=True):
                    product[name](x)
                times[name].append(time.perf_counter() - begin)
        cells = (f"{statistics.median(times[name]) * 2e3:.0f} ms" for name in names)
        print(f"| {rows} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

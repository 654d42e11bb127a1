"""Compares `lowrank rank` with LAPACK (through NumPy, in f64) on a random matrix, and on an adapter of rank 16.

    python tests/golden/check_rank.py LOWRANK [SIZE]

prints the largest difference of a singular value over the largest singular value, and the seconds that each took.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def run(binary, file, *options):
    start = time.perf_counter()
    result = subprocess.run([binary, "rank", file, "--json", *options], check=True, capture_output=True, text=True)
    return json.loads(result.stdout.splitlines()[-1])["tensors"], time.perf_counter() - start


def difference(actual, wanted):
    return float(np.abs(np.array(actual) - wanted).max() / wanted[0])


def main(binary, size=4096):
    size, r = int(size), 16
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "weight.safetensors")
        weight = generator.standard_normal((size, size), dtype=np.float32)
        save_file({"weight": weight}, file)
        [tensor], seconds = run(binary, file)
        start = time.perf_counter()
        wanted = np.linalg.svd(weight.astype(np.float64), compute_uv=False)
        lapack = time.perf_counter() - start
        print(f"{size} x {size}: off by {difference(tensor['singular_values'], wanted):.1e} of the largest; "
              f"lowrank {seconds:.1f} s, LAPACK {lapack:.1f} s")

        file = Path(folder, "adapter_model.safetensors")
        a = generator.standard_normal((r, size), dtype=np.float32)
        b = generator.standard_normal((size, r), dtype=np.float32)
        save_file({"base_model.model.layer.lora_A.weight": a, "base_model.model.layer.lora_B.weight": b}, file)
        [tensor], seconds = run(binary, file)
        # The product's singular values are those of R_B R_A^T, which LAPACK gives the factors of.
        wanted = np.linalg.svd(np.linalg.qr(b.astype(np.float64))[1] @ np.linalg.qr(a.T.astype(np.float64))[1].T,
                               compute_uv=False)
        print(f"product of rank {r} at that size: off by {difference(tensor['singular_values'][:r], wanted):.1e} of the "
              f"largest; the whole command {1000 * seconds:.0f} ms")


if __name__ == "__main__":
    main(*sys.argv[1:])

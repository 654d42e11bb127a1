"""PyTorch's linear at the sizes of a RoBERTa-base step of 2048 tokens: a JSON line for each.

    python linear.py --dtype bf16 --threads 2
"""
import argparse, json, os, statistics, time

import torch

p = argparse.ArgumentParser()
p.add_argument("--dtype", default="f32", choices=["f32", "bf16"])
p.add_argument("--threads", type=int, default=os.cpu_count())
a = p.parse_args()
torch.set_num_threads(a.threads)
dtype = torch.bfloat16 if a.dtype == "bf16" else torch.float32
rows = 2048
with torch.inference_mode():
    for inputs, outputs in (768, 768), (768, 3072), (3072, 768):
        x, w, b = (torch.randn(*s).to(dtype) for s in ((rows, inputs), (outputs, inputs), (outputs,)))
        for _ in range(3):
            torch.nn.functional.linear(x, w, b)
        times = []
        while len(times) < 5 or sum(times) < 0.5:
            start = time.perf_counter()
            torch.nn.functional.linear(x, w, b)
            times.append(time.perf_counter() - start)
        print(json.dumps(dict(kernel=f"frozen/{rows}x{inputs}x{outputs}", seconds=statistics.median(times))))

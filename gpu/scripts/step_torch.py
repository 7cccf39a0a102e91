"""Throughput of a VideoMAE ViT-B pre-training step: PyTorch eager, torch.compile, and tubelet.

    python3 step_torch.py [--batch N] [--data data/train] [--tubelet ./tubelet] [--steps 20]

The same shapes everywhere: clips of 16 x 224 x 224, tubelets of 2 x 16 x 16, 1408 of 1568 tokens hidden,
encoder 768 x 12, decoder 384 x 4, AdamW on f32 weights, products in bfloat16. PyTorch's steps work on
random numbers that are on the GPU already. tubelet's are the real thing; the time that it waited for data is
taken off, and is printed beside it. Without --batch it is the largest power of two that a step of tubelet
fits the GPU's memory with. Prints one line a system and the ratios, and whether tubelet waited less than 2 %
for data. Needs torch with CUDA.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

TOKENS, HIDDEN, PATCH, ENCODER, DECODER = 1568, 1408, 2 * 16 * 16 * 3, 768, 384
WARM_UP = 5


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        b, n, d = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(y.transpose(1, 2).reshape(b, n, d))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(PATCH, ENCODER)
        self.encoder = nn.ModuleList(Block(ENCODER, 12) for _ in range(12))
        self.norm, self.narrow = nn.LayerNorm(ENCODER, eps=1e-6), nn.Linear(ENCODER, DECODER, bias=False)
        self.token = nn.Parameter(torch.zeros(1, 1, DECODER))
        self.decoder = nn.ModuleList(Block(DECODER, 6) for _ in range(4))
        self.last, self.head = nn.LayerNorm(DECODER, eps=1e-6), nn.Linear(DECODER, PATCH)
        self.register_buffer("wide_positions", torch.randn(1, TOKENS, ENCODER))
        self.register_buffer("narrow_positions", torch.randn(1, TOKENS, DECODER))

    def forward(self, patches, visible, hidden):
        b = patches.shape[0]

        def pick(table, index):
            return table.expand(b, -1, -1).gather(1, index.unsqueeze(-1).expand(-1, -1, table.shape[-1]))

        x = self.embed(patches) + pick(self.wide_positions, visible)
        for block in self.encoder:
            x = block(x)
        x = self.narrow(self.norm(x)) + pick(self.narrow_positions, visible)
        x = torch.cat([x, self.token + pick(self.narrow_positions, hidden)], dim=1)
        for block in self.decoder:
            x = block(x)
        return self.head(self.last(x[:, -HIDDEN:]))


def torch_step_seconds(batch, steps, compiled):
    network = Network().cuda()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05)
    order = torch.rand(batch, TOKENS, device="cuda").argsort(1)
    visible, hidden = order[:, HIDDEN:], order[:, :HIDDEN]
    patches = torch.randn(batch, TOKENS - HIDDEN, PATCH, device="cuda")
    targets = torch.randn(batch, HIDDEN, PATCH, device="cuda")
    forward = torch.compile(network) if compiled else network
    times = []
    for n in range(WARM_UP + steps):
        begin = time.perf_counter()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = F.mse_loss(forward(patches, visible, hidden).float(), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        torch.cuda.synchronize()
        if n >= WARM_UP:
            times.append(time.perf_counter() - begin)
    return statistics.median(times)


def tubelet_command(arguments, batch, steps, run):
    command = [arguments.tubelet, "pretrain", "--recipe", "videomae-vit-b-k400"]
    command += ["--data", arguments.data, "--out", str(run), "--device", "cuda"]
    command += ["--precision", "bf16", "--batch-size", str(batch)]
    # No checkpoint but the last step's.
    command += ["--max-steps", str(steps), "--checkpoint-every", "1000000"]
    for change in ["accumulate=1", "warmup_epochs=0", "epochs=1000"]:
        command += ["--set", f"pretrain.train.{change}"]
    return command


def largest_batch(arguments):
    """The largest power of two that fits, and that the data has samples for."""
    fits = None
    for batch in (8, 16, 32, 64, 128, 256):
        with tempfile.TemporaryDirectory() as folder:
            command = tubelet_command(arguments, batch, 2, Path(folder) / "run")
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            print(f"batch {batch} is too large: {reason}", flush=True)
            break
        fits = batch
    if fits is None:
        sys.exit("step_torch.py: not even a batch of 8 fits")
    return fits


def tubelet_steps(arguments, batch):
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = tubelet_command(arguments, batch, WARM_UP + arguments.steps, run)
        subprocess.run(command, check=True)
        lines = (run / "metrics.jsonl").read_text().splitlines()
        summary = json.loads((run / "summary.json").read_text())
    # The last step also writes a checkpoint, but its line is measured before.
    return [json.loads(line) for line in lines[WARM_UP:]], summary.get("gpu")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, help="clips of a step [default: the largest that fits]")
    parser.add_argument("--steps", type=int, default=20, help="steps that are measured [%(default)s]")
    parser.add_argument("--data", default="data/train", help="clips in Parquet shards [%(default)s]")
    parser.add_argument("--tubelet", default="./tubelet", help="the program [%(default)s]")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("step_torch.py: torch sees no CUDA device")
    torch.backends.cuda.matmul.allow_tf32 = True
    batch, rates = arguments.batch or largest_batch(arguments), {}

    def show(name, seconds, more=""):
        rates[name] = batch / seconds
        print(f"{name:<16} {1e3 * seconds:8.1f} ms a step {batch / seconds:9.1f} clips/s{more}", flush=True)

    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, batch {batch}")
    for name, compiled in [("torch eager", False), ("torch.compile", True)]:
        try:
            show(name, torch_step_seconds(batch, arguments.steps, compiled))
        except torch.cuda.OutOfMemoryError:
            print(f"{name:<16} does not fit the GPU's memory: give a smaller --batch", flush=True)
        torch.cuda.empty_cache()
    steps, gpu = tubelet_steps(arguments, batch)
    seconds = statistics.median(s["step_s"] * (1 - s["data_wait"]) for s in steps)
    waited = sum(s["step_s"] * s["data_wait"] for s in steps) / sum(s["step_s"] for s in steps)
    goal = "less than 2 %" if waited < 0.02 else "the goal is 2 %"
    show("tubelet", seconds, f", {100 * waited:.2f} % waiting for data: {goal}")
    if gpu:
        bandwidth = gpu["copied_bytes"] / max(gpu["copy_s"], 1e-9) / 1e9
        overlap = max(0.0, 1 - gpu["hand_over_s"] / max(gpu["copy_s"], 1e-9))
        print(f"copies to the GPU: {bandwidth:.1f} GB/s, {100 * overlap:.0f} % of their time behind training")
    for name in rates.keys() - {"tubelet"}:
        print(f"tubelet has {100 * rates['tubelet'] / rates[name]:.0f} % of the throughput of {name}")


if __name__ == "__main__":
    main()

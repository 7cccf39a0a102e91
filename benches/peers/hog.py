"""Histograms of oriented gradients of a random 224x224 RGB picture on one core: peers in Python, and
beside them `cargo bench --bench hog`.

    python benches/peers/hog.py [--no-cargo]

scikit-image, OpenCV (HOGDescriptor, which left the main package in version 5) and PyTorch are each
optional. 9 bins, cells of 8 pixels; what a peer does beyond or short of the definition is said.
"""

import argparse
import math
import re
import subprocess
import time
from pathlib import Path

import numpy as np

SIDE, BINS, CELL = 224, 9, 8


def rate(run, seconds=2.0):
    """Pictures a second: the best of many short series."""
    run()
    start = time.perf_counter()
    run()
    series = max(1, int(0.05 / max(time.perf_counter() - start, 1e-9)))
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(series):
            run()
        best = min(best, (time.perf_counter() - start) / series)
    return 1.0 / best


def opencv(picture):
    import cv2

    cv2.setNumThreads(1)
    size, block, cell = (SIDE, SIDE), (2 * CELL, 2 * CELL), (CELL, CELL)
    descriptor = cv2.HOGDescriptor(size, block, cell, cell, BINS)
    return lambda: descriptor.compute(picture)


def skimage(picture):
    from skimage.feature import hog

    cell = (CELL, CELL)
    return lambda: hog(picture, BINS, cell, (1, 1), channel_axis=2)


def torch_conv(picture):
    import torch
    import torch.nn.functional as functional

    torch.set_num_threads(1)
    image = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
    across = sobel.view(1, 1, 3, 3).repeat(3, 1, 1, 1)
    down = across.transpose(2, 3).contiguous()

    def run():
        with torch.no_grad():
            padded = functional.pad(image, (1, 1, 1, 1), mode="reflect")
            gx = functional.conv2d(padded, across, groups=3)
            gy = functional.conv2d(padded, down, groups=3)
            magnitude = torch.sqrt(gx * gx + gy * gy)
            phase = torch.atan2(gx, gy) / math.pi * BINS
            bins = phase.floor().long() % BINS
            maps = torch.zeros(1, 3, BINS, SIDE, SIDE)
            maps.scatter_(2, bins[:, :, None], magnitude[:, :, None])
            cells = maps.view(1, 3, BINS, SIDE // CELL, CELL, SIDE // CELL, CELL).sum((4, 6))
            return functional.normalize(cells, dim=2)

    return run


PEERS = {
    "OpenCV HOGDescriptor": (opencv, "one channel a pixel, soft bins, overlapping blocks"),
    "scikit-image hog": (skimage, "one channel a pixel, blocks of one cell"),
    "PyTorch conv2d": (torch_conv, "the same definition"),
}


def cargo():
    """Pictures a second by name, from the bench's times."""
    command = ["cargo", "bench", "--bench", "hog", "--", "9 bins, cells of 8"]
    where = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=where, text=True, capture_output=True, check=True)
    unit = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
    found = {}
    pattern = r"hog/9 bins, cells of 8, (\w+)\s+time:\s+\[\S+ \S+ (\S+) (\S+) "
    for name, value, scale in re.findall(pattern, done.stdout):
        found[f"tubelet, {name}"] = 1.0 / (float(value) * unit[scale])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--no-cargo", action="store_true", help="measure the peers alone")
    arguments = parser.parse_args()
    picture = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    rows = []
    for name, (make, what) in PEERS.items():
        try:
            rows.append((name, rate(make(picture)), what))
        except (ImportError, AttributeError) as error:
            rows.append((name, None, f"absent: {error}"))
    if not arguments.no_cargo:
        rows += [(name, value, "normalised f32 in, 3 channels") for name, value in cargo().items()]
    print(f"{'':24}{'pictures/s':>12}")
    for name, value, what in rows:
        print(f"{name:24}{'-' if value is None else format(value, '.0f'):>12}  {what}")


if __name__ == "__main__":
    main()

"""How long HOG takes in PyTorch, and how many times faster `gpu-bench` is.

    python3 hog_torch.py [path of gpu-bench]

The layer is MaskFeat's, in torch operations: reflected borders, grouped Sobel filters, angle and
magnitude, bins by scatter, sums over cells by pooling, L2 norm. Same batch as the bench: 256 pictures
of 224 x 224 pixels, 9 bins, cells of 8 pixels, in 32-bit floats. Needs torch with CUDA.
"""

import json
import math
import subprocess
import sys

import torch
import torch.nn.functional as F

BINS, CELL, PICTURES, SIDE = 9, 8, 256, 224


def hog(images, sobel_x, sobel_y):
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    gx = F.conv2d(padded, sobel_x, groups=3)
    gy = F.conv2d(padded, sobel_y, groups=3)
    magnitude = torch.sqrt(gx * gx + gy * gy)
    phase = torch.atan2(gx, gy) / math.pi * BINS
    n, c, h, w = images.shape
    histogram = torch.zeros(n, c, BINS, h, w, device=images.device)
    bins = phase.floor().long().remainder(BINS).unsqueeze(2)
    histogram.scatter_add_(2, bins, magnitude.unsqueeze(2))
    cells = histogram.unfold(3, CELL, CELL).unfold(4, CELL, CELL).sum(dim=(-1, -2))
    return F.normalize(cells, p=2, dim=2)


def seconds(work, warm_up=3, runs=20):
    for _ in range(warm_up):
        work()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(runs):
        work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3 / runs


def main():
    if not torch.cuda.is_available():
        sys.exit("hog_torch.py: torch sees no CUDA device")
    taps = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]], device="cuda")
    sobel_x = taps.repeat(3, 1, 1, 1)
    sobel_y = taps.t().repeat(3, 1, 1, 1)
    images = torch.randn(PICTURES, 3, SIDE, SIDE, device="cuda")
    with torch.no_grad():
        torch_time = seconds(lambda: hog(images, sobel_x, sobel_y))
    print(f"torch {torch.__version__}: {torch_time * 1e6:.1f} µs for {PICTURES} pictures")
    bench = sys.argv[1] if len(sys.argv) > 1 else "./gpu-bench"
    answer = json.loads(subprocess.run([bench, "--json"], check=True, stdout=subprocess.PIPE).stdout)
    for line in answer["lines"]:
        if line["name"].startswith("hog"):
            ratio = torch_time / line["seconds"]
            print(f"{line['name']}: {line['seconds'] * 1e6:.1f} µs, {ratio:.1f} times faster")


if __name__ == "__main__":
    main()

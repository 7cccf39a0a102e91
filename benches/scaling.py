#!/usr/bin/env python3
"""How the cost of a row grows: with resolution, frames, workers, and the structure of the videos.

    python benches/scaling.py --images SHARDS --clips SHARDS [--train-clips SHARDS]

Runs `tubelet bench` with one thing changed at a time and prints tables in Markdown. Rates are to the
normalised float32 batch, without targets. --train-clips are the same videos, converted with
`--video train`.
"""

import argparse
import json
import subprocess


def bench(args, shards, recipe, workers=1, **changes):
    """Rows a second and decoded frames a row."""
    command = [args.tubelet, "bench", shards, "--recipe", recipe, "--json"]
    command += ["--seconds", str(args.seconds), "--workers", str(workers)]
    changes = {"target": '{kind="teacher"}', **changes}
    command += [word for key, value in changes.items() for word in ("--set", f"pretrain.{key}={value}")]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found["samples_per_s"], found["decoded_frames_per_sample"]


def table(title, head, rows):
    print(f"\n### {title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |")


def crop(size):
    return f'{{rule="random-resized", size={size}, scale=[0.2, 1.0]}}'


def clip(frames, step):
    return f'{{rule="videomae", frames={frames}, step={step}}}'


def compared(rates):
    """Rates with their ratio to the first."""
    return [(name, f"{rate:.1f}", f"{rate / rates[0][1]:.2f}", *more) for name, rate, *more in rates]


def images(args):
    recipe, head = "mae-vit-b", ["images/s", "to the first"]
    rates = [(f"{n}²", bench(args, args.images, recipe, batch_size=64, crop=crop(n))[0]) for n in (112, 160, 224, 320)]
    table("Pictures: resolution of the crop, 1 worker", ["size", *head], compared(rates))
    rates = [(n, bench(args, args.images, recipe, n, batch_size=64, crop=crop(224))[0]) for n in args.workers]
    table("Pictures: workers", ["workers", *head], compared(rates))


def clips(args):
    recipe, head = "videomae-vit-b-k400", ["clips/s", "to the first"]
    some = {"batch_size": 8, "crop": crop(224), "flip": 0.0}
    of = lambda frames, step, **more: bench(args, args.clips, recipe, **{**some, "clip": clip(frames, step), **more})
    rates = [(f"{n}²", of(16, 4, crop=crop(n))[0]) for n in (112, 160, 224, 320)]
    table("Clips of 16 frames, 4 apart: resolution of the crop, 1 worker", ["size", *head], compared(rates))
    found = [(f"{n} frames, {step} apart", of(n, step)) for n, step in ((8, 8), (16, 4), (32, 2), (16, 2), (16, 1))]
    rates = [(name, rate, f"{frames:.0f}") for name, (rate, frames) in found]
    table("Clips: frames and their distance, 1 worker", ["clip", *head, "decoded frames"], compared(rates))
    rates = [(n, bench(args, args.clips, recipe, n, clip=clip(16, 4), **some)[0]) for n in args.workers]
    table("Clips: workers", ["workers", *head], compared(rates))
    if args.train_clips:
        both = [("as they came", args.clips), ("converted with --video train", args.train_clips)]
        found = [(name, bench(args, shards, recipe, clip=clip(16, 4), **some)) for name, shards in both]
        rates = [(name, rate, f"{frames:.0f}") for name, (rate, frames) in found]
        title = "Clips: groups and references of the videos, 1 worker"
        table(title, ["videos", *head, "decoded frames"], compared(rates))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images")
    parser.add_argument("--clips")
    parser.add_argument("--train-clips")
    parser.add_argument("--tubelet", default="target/release/tubelet", help="the program")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=6)
    args = parser.parse_args()
    if args.images:
        images(args)
    if args.clips:
        clips(args)


if __name__ == "__main__":
    main()

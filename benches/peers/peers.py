#!/usr/bin/env python3
"""Runs tubelet and other loaders on the same files, in turn, and prints one table of ratios.

    python benches/peers/peers.py images DIR  [--shards SHARDS] [--workers 1 2]
    python benches/peers/peers.py clips  DIR  [--shards SHARDS] [--workers 1 2]

images: every JPEG below DIR -> RandomResizedCrop 224, scale (0.2, 1), bicubic -> flip -> normalised
        float32 batch of 64.
clips:  every video below DIR -> 16 frames from a random start, --step apart (or --uniform: one of
        each of 16 equal segments) -> one RandomResizedCrop 224, bilinear -> normalised float32 batch
        of 8.

tubelet reads the shards of --shards (made by `tubelet convert`), or makes them from DIR first. Each
loader gets --seconds a turn, --rounds turns; the table has the median. A peer whose package is not
installed is named and left out.

The peers do what their documentation shows: torch's DataLoader with worker processes, OpenCV, PyAV,
torchcodec and decord inside its workers, DALI and FFCV as their own pipelines.
"""

import argparse
import importlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE, SCALE, RATIO = 224, (0.2, 1.0), (3 / 4, 4 / 3)
IMAGES, VIDEOS = {".jpg", ".jpeg"}, {".mp4", ".mkv", ".webm", ".avi"}


def random_box(height, width):
    """RandomResizedCrop's box: x, y, width, height."""
    for _ in range(10):
        area = height * width * random.uniform(*SCALE)
        ratio = 2.718281828459045 ** random.uniform(-0.2876820724517809, 0.2876820724517809)
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h
    side = min(height, width)
    return (width - side) // 2, (height - side) // 2, side, side


def frame_numbers(args, total):
    """The frames of a clip."""
    if args.uniform:
        part = total / 16
        return [min(total - 1, int(part * n + random.random() * part)) for n in range(16)]
    span = 15 * args.step + 1
    start = random.randint(0, max(0, total - span))
    return [min(total - 1, start + n * args.step) for n in range(16)]


# ---- what a worker of torch's DataLoader does with one file --------------------------------------


def image_pillow(args):
    from PIL import Image
    from torchvision import transforms as t

    chain = t.Compose(
        [
            t.RandomResizedCrop(SIZE, SCALE, RATIO, t.InterpolationMode.BICUBIC),
            t.RandomHorizontalFlip(),
            t.ToTensor(),
            t.Normalize(MEAN, STD),
        ]
    )
    return lambda path: chain(Image.open(path).convert("RGB"))


def image_tensor(args):
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    from torchvision.transforms import v2 as t

    chain = t.Compose(
        [
            t.RandomResizedCrop(SIZE, SCALE, RATIO, t.InterpolationMode.BICUBIC, antialias=True),
            t.RandomHorizontalFlip(),
            t.ToDtype(torch.float32, scale=True),
            t.Normalize(MEAN, STD),
        ]
    )
    return lambda path: chain(decode_jpeg(read_file(path), ImageReadMode.RGB))


def image_opencv(args):
    import cv2
    import numpy as np
    import torch

    cv2.setNumThreads(1)
    scale = (1 / (255 * np.array(STD))).astype(np.float32)
    shift = (-np.array(MEAN) / np.array(STD)).astype(np.float32)

    def one(path):
        picture = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
        x, y, w, h = random_box(*picture.shape[:2])
        crop = cv2.resize(picture[y : y + h, x : x + w], (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
        if random.random() < 0.5:
            crop = cv2.flip(crop, 1)
        return torch.from_numpy((crop * scale + shift).transpose(2, 0, 1).copy())

    return one


def frames_to_clip(frames):
    """`frames`: 16 RGB arrays. One crop for all, bilinear, float32 `[3, 16, 224, 224]`."""
    import cv2
    import numpy as np
    import torch

    cv2.setNumThreads(1)
    scale = (1 / (255 * np.array(STD))).astype(np.float32)
    shift = (-np.array(MEAN) / np.array(STD)).astype(np.float32)
    x, y, w, h = random_box(*frames[0].shape[:2])
    out = np.empty((len(frames), SIZE, SIZE, 3), np.float32)
    for n, frame in enumerate(frames):
        crop = cv2.resize(frame[y : y + h, x : x + w], (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
        np.multiply(crop, scale, out=out[n])
        out[n] += shift
    return torch.from_numpy(out).permute(3, 0, 1, 2).contiguous()


def clip_opencv(args):
    import cv2

    def one(path):
        video = cv2.VideoCapture(path)
        video.set(cv2.CAP_PROP_N_THREADS, 1)
        wanted = frame_numbers(args, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
        video.set(cv2.CAP_PROP_POS_FRAMES, wanted[0])
        frames, number = {}, wanted[0]
        while number <= wanted[-1] and video.grab():
            if number in wanted:
                frames[number] = cv2.cvtColor(video.retrieve()[1], cv2.COLOR_BGR2RGB)
            number += 1
        last = frames[max(frames)]
        return frames_to_clip([frames.get(n, last) for n in wanted])

    return one


def clip_pyav(args):
    import av

    def one(path):
        with av.open(path) as video:
            stream = video.streams.video[0]
            stream.thread_type, stream.codec_context.thread_count = "NONE", 1
            rate, base = float(stream.average_rate), float(stream.time_base)
            total = stream.frames or int(float(video.duration) / 1e6 * rate)
            wanted = frame_numbers(args, total)
            first = stream.start_time or 0
            video.seek(first + int(wanted[0] / rate / base), stream=stream)
            frames = {}
            for frame in video.decode(stream):
                number = round((frame.pts - first) * base * rate)
                if number in wanted:
                    frames[number] = frame.to_ndarray(format="rgb24")
                if number >= wanted[-1]:
                    break
            last = frames[max(frames)]
            return frames_to_clip([frames.get(n, last) for n in wanted])

    return one


def clip_torchcodec(args):
    from torchcodec.decoders import VideoDecoder

    def one(path):
        video = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="approximate")
        wanted = frame_numbers(args, video.metadata.num_frames)
        return frames_to_clip(list(video.get_frames_at(wanted).data.numpy()))

    return one


def clip_decord(args):
    import decord

    def one(path):
        video = decord.VideoReader(path, num_threads=1)
        wanted = frame_numbers(args, len(video))
        return frames_to_clip(list(video.get_batch(wanted).asnumpy()))

    return one


class Files:
    """A torch data set: the file list, again and again."""

    def __init__(self, files, make, args):
        self.files, self.make, self.args, self.one = files, make, args, None

    def __len__(self):
        return 1 << 24

    def __getitem__(self, index):
        if self.one is None:
            import torch

            torch.set_num_threads(1)
            random.seed(index)
            self.one = self.make(self.args)
        return self.one(self.files[index % len(self.files)])


def torch_loader(make):
    def run(args, files, workers):
        import torch

        random.Random(0).shuffle(files)
        loader = torch.utils.data.DataLoader(
            Files(files, make, args), batch_size=args.batch, num_workers=workers, prefetch_factor=2
        )
        yield from (len(batch) for batch in loader)

    return run


def opencv_threads(args, files, workers):
    """OpenCV on threads of one process, which it lets run side by side."""
    from concurrent.futures import ThreadPoolExecutor

    import torch

    one = image_opencv(args)
    with ThreadPoolExecutor(workers) as pool:
        at = 0
        while True:
            batch = [files[(at + n) % len(files)] for n in range(args.batch)]
            at += args.batch
            yield len(torch.stack(list(pool.map(one, batch))))


def dali_images(args, files, workers):
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.auto_aug import auto_augment  # noqa: F401 (tells an old DALI apart)

    @pipeline_def
    def pipe():
        data, _ = fn.readers.file(files=files, random_shuffle=True)
        pictures = fn.decoders.image_random_crop(
            data, random_area=SCALE, random_aspect_ratio=RATIO, num_attempts=10
        )
        pictures = fn.resize(
            pictures, size=(SIZE, SIZE), interp_type=types.INTERP_CUBIC, antialias=True
        )
        return fn.crop_mirror_normalize(
            pictures,
            mirror=fn.random.coin_flip(),
            mean=[255 * m for m in MEAN],
            std=[255 * s for s in STD],
            dtype=types.FLOAT,
            output_layout="CHW",
        )

    running = pipe(batch_size=args.batch, num_threads=workers, device_id=None)
    running.build()
    while True:
        yield len(running.run()[0])


def ffcv_images(mode):
    """FFCV's loader over a file written in `mode`: jpg or raw."""
    return lambda args, files, workers: ffcv_turn(mode, args, files, workers)


def ffcv_turn(mode, args, files, workers):
    import numpy as np
    import torch
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.decoders import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage
    from ffcv.writer import DatasetWriter
    from PIL import Image

    class Pictures:
        def __len__(self):
            return len(files)

        def __getitem__(self, index):
            return Image.open(files[index]).convert("RGB"), 0

    beton = os.path.join(args.scratch, f"{mode}.beton")
    if not os.path.exists(beton):
        field = RGBImageField(write_mode=mode, max_resolution=512)
        DatasetWriter(beton, {"image": field, "label": IntField()}).from_indexed_dataset(Pictures())
    chain = [
        RandomResizedCropRGBImageDecoder((SIZE, SIZE), SCALE, RATIO),
        RandomHorizontalFlip(),
        NormalizeImage(255 * np.array(MEAN), 255 * np.array(STD), np.float32),
        ToTensor(),
        ToTorchImage(),
    ]
    torch.set_num_threads(1)
    loader = Loader(
        beton,
        batch_size=args.batch,
        num_workers=workers,
        order=OrderOption.RANDOM,
        pipelines={"image": chain, "label": None},
        drop_last=True,
    )
    while True:
        yield from (len(batch[0]) for batch in loader)


PEERS = {
    "images": {
        "torchvision + Pillow": (["torchvision", "PIL"], torch_loader(image_pillow)),
        "torchvision tensors": (["torchvision"], torch_loader(image_tensor)),
        "DALI": (["nvidia.dali"], dali_images),
        "FFCV (max 512, JPEG)": (["ffcv"], ffcv_images("jpg")),
        "FFCV (max 512, raw)": (["ffcv"], ffcv_images("raw")),
        "OpenCV threads (no antialias)": (["cv2", "torch"], opencv_threads),
    },
    "clips": {
        "OpenCV": (["cv2", "torch"], torch_loader(clip_opencv)),
        "PyAV": (["av", "cv2", "torch"], torch_loader(clip_pyav)),
        "torchcodec": (["torchcodec", "cv2"], torch_loader(clip_torchcodec)),
        "decord": (["decord", "cv2", "torch"], torch_loader(clip_decord)),
    },
}

# ---- measuring -------------------------------------------------------------------------------------


def child(args, files):
    """One turn of one peer in a process of its own; prints samples a second."""
    turn = PEERS[args.kind][args.peer][1](args, files, args.workers[0])
    for _ in range(args.warm):
        next(turn)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < args.seconds:
        count += next(turn)
    print(json.dumps(count / (time.perf_counter() - start)), flush=True)
    os._exit(0)


def peer(args, name, workers):
    command = [sys.executable, __file__, args.kind, args.data, "--peer", name]
    command += ["--workers", str(workers), "--seconds", str(args.seconds), "--step", str(args.step)]
    command += ["--scratch", args.scratch] + ["--uniform"] * args.uniform
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        lines = (done.stderr.strip() or "no message").splitlines()
        raise RuntimeError(lines[-1])
    return json.loads(done.stdout.strip().splitlines()[-1])


def tubelet(args, shards, workers):
    crop = f"{{rule=\"random-resized\", size={SIZE}, scale=[0.2, 1.0]}}"
    changes = [f"pretrain.crop={crop}", 'pretrain.target={kind="teacher"}']
    if args.kind == "images":
        recipe = "mae-vit-b"
    else:
        recipe = "videomae-vit-b-k400"
        clip = f'{{rule="videomae", frames=16, step={args.step}}}'
        if args.uniform:
            clip = '{rule="segments", frames=16}'
        changes += [f"pretrain.clip={clip}", "pretrain.flip=0.0"]
    command = [args.tubelet, "bench", shards, "--recipe", recipe, "--batch", str(args.batch), "--json"]
    command += ["--seconds", str(args.seconds), "--workers", str(workers)]
    command += [word for change in changes for word in ("--set", change)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout)["samples_per_s"]


def measure(args, files, shards):
    names = []
    for name, (modules, _) in PEERS[args.kind].items():
        try:
            for module in modules:
                importlib.import_module(module)
            names.append(name)
        except Exception as error:  # a broken installation is as absent as none
            print(f"{name}: left out: {str(error).splitlines()[0]}", file=sys.stderr)
    print(f"{len(files)} files, {args.rounds} rounds of {args.seconds} s, samples a second (median)")
    for workers in args.workers:
        found = {name: [] for name in ["tubelet", *names]}
        for _ in range(args.rounds):
            for name in found:
                try:
                    value = tubelet(args, shards, workers) if name == "tubelet" else peer(args, name, workers)
                    found[name].append(value)
                except RuntimeError as error:
                    print(f"{name}: {error}", file=sys.stderr)
        rates = {name: statistics.median(values) for name, values in found.items() if values}
        ours = rates.get("tubelet")
        print(f"\n{workers} worker{'s' * (workers > 1)}")
        for name, rate in rates.items():
            ratio = "" if name == "tubelet" or not ours else f"   tubelet is {ours / rate:.2f} times as fast"
            print(f"  {name:32}{rate:9.1f}{ratio}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=PEERS)
    parser.add_argument("data")
    parser.add_argument("--shards", help="what tubelet reads [default: made from the data]")
    parser.add_argument("--tubelet", default="target/release/tubelet", help="the program")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step", type=int, default=4, help="distance of a clip's frames")
    parser.add_argument("--uniform", action="store_true", help="one frame of each of 16 segments")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.batch, args.warm = (64, 3) if args.kind == "images" else (8, 2)
    suffixes = IMAGES if args.kind == "images" else VIDEOS
    files = sorted(str(p) for p in Path(args.data).rglob("*") if p.suffix.lower() in suffixes)
    if not files:
        sys.exit(f"{args.data}: no {args.kind} below it")
    if args.peer:
        child(args, files)
    with tempfile.TemporaryDirectory() as scratch:
        args.scratch = scratch
        shards = args.shards or os.path.join(scratch, "shards")
        if not args.shards:
            listing = os.path.join(scratch, "files.txt")
            Path(listing).write_text("".join(f"{os.path.abspath(f)}\t0\n" for f in files), encoding="utf-8")
            subprocess.run([args.tubelet, "convert", listing, "-o", shards], check=True)
        measure(args, files, shards)


if __name__ == "__main__":
    main()

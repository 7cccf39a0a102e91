"""What others make of our files, and we of theirs: one line a proof, exit code 1 where one fails.

    pip install -r tests/proof/requirements.txt
    python tests/proof/proof.py --images DATA/imagenet-sample --videos DATA/kinetics-like

`--images` is ImageNet's layout, `--videos` Kinetics'. Needs ffmpeg and ffprobe. A package that is not
there skips its proofs, with a line that says so.
"""

import argparse
import collections
import hashlib
import io
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile

FAILED = []


def proof(name):
    """Runs a function at once, as a line of the report."""

    def run(function):
        try:
            print(f"PASS  {name}: {function()}", flush=True)
        except ImportError as error:
            print(f"SKIP  {name}: {error}", flush=True)
        except Exception as error:  # noqa: BLE001: every failure is a line
            FAILED.append(name)
            print(f"FAIL  {name}: {type(error).__name__}: {error}", flush=True)
        return function

    return run


def command(*args):
    done = subprocess.run([str(a) for a in args], capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{args[0]}: {done.stderr.decode(errors='replace')[-600:]}")
    return done.stdout


def equal(a, b, what="values"):
    if a != b:
        raise AssertionError(f"{what}: {str(a)[:200]} is not {str(b)[:200]}")


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--tubelet", default="target/release/tubelet")
parser.add_argument("--images", type=pathlib.Path, required=True)
parser.add_argument("--videos", type=pathlib.Path, required=True)
ARGS = parser.parse_args()
WORK = tempfile.TemporaryDirectory()
OUT = pathlib.Path(WORK.name)


def convert(data, name, *more):
    command(ARGS.tubelet, "convert", data, "-o", OUT / name, *more)
    return OUT / name


def classes(folder):
    import pyarrow.parquet as pq

    text = pq.read_schema(shards(folder)[0]).metadata[b"huggingface"]
    return json.loads(text)["info"]["features"]["label"]["names"]


def shards(folder, extension="parquet"):
    return sorted(str(p) for p in folder.glob(f"train-*.{extension}"))


def rows(folder, column):
    import pyarrow.parquet as pq

    for file in shards(folder):
        yield from pq.read_table(file).to_pylist()


SOURCES = {str(p.relative_to(ARGS.images)): p for p in (ARGS.images / "train").rglob("*.JPEG")}
COUNTS = collections.Counter(name.split("/")[1] for name in SOURCES)
IMAGES = convert(ARGS.images, "images", "--layout", "imagenet", "--shard-size", "8MiB")
VIDEOS = convert(ARGS.videos, "videos")
STRIDE = 4
TRAIN = convert(ARGS.videos, "train", "--video", "train", "--stride", STRIDE)


@proof("pyarrow: payloads of images are the source files")
def _():
    seen = 0
    for row in rows(IMAGES, "image"):
        equal(row["image"]["bytes"], SOURCES[row["image"]["path"]].read_bytes(), row["image"]["path"])
        seen += 1
    equal(seen, len(SOURCES), "rows")
    return f"{seen} rows of {len(shards(IMAGES))} shards"


@proof("pyarrow: payloads of videos are the source files")
def _():
    seen = 0
    for row in rows(VIDEOS, "video"):
        equal(row["video"]["bytes"], (ARGS.videos / row["video"]["path"]).read_bytes())
        seen += 1
    return f"{seen} rows"


@proof("datasets: Image and ClassLabel, pixels as Pillow reads the source")
def _():
    import datasets
    from PIL import Image

    data = datasets.load_dataset("parquet", data_files=shards(IMAGES), split="train", cache_dir=str(OUT / "hf"))
    equal(type(data.features["image"]).__name__, "Image")
    equal(type(data.features["label"]).__name__, "ClassLabel")
    equal(len(data), len(SOURCES), "rows")
    row = data[7]
    name = data.cast_column("image", datasets.Image(decode=False))[7]["image"]["path"]
    equal(data.features["label"].int2str(row["label"]), name.split("/")[1])
    source = Image.open(SOURCES[name])
    equal(row["image"].convert("RGB").tobytes(), source.convert("RGB").tobytes(), "pixels")
    return f"{len(data)} rows, {data.features['label'].num_classes} classes"


@proof("datasets: Video")
def _():
    import datasets

    features = datasets.load_dataset("parquet", data_files=shards(TRAIN), split="train", cache_dir=str(OUT / "hf")).features
    equal(type(features["video"]).__name__, "Video")
    equal(type(features["label"]).__name__, "ClassLabel")
    return ", ".join(features["label"].names)


@proof("datasets: the levels of a pyramid are images")
def _():
    import datasets

    folder = convert(ARGS.images, "pyramid", "--layout", "imagenet", "--pyramid", "64,128")
    data = datasets.load_dataset("parquet", data_files=shards(folder), split="train", cache_dir=str(OUT / "hf"))
    for side in (64, 128):
        equal(type(data.features[f"image_px{side}"]).__name__, "Image")
        sizes = {min(row[f"image_px{side}"].size) for row in data if row[f"image_px{side}"]}
        equal(sizes, {side}, "shorter sides")
    return f"{len(data)} rows"


@proof("DuckDB counts the labels")
def _():
    import duckdb

    files = ", ".join(f"'{f}'" for f in shards(IMAGES))
    found = duckdb.sql(f"SELECT label, count(*) FROM read_parquet([{files}]) GROUP BY label").fetchall()
    equal({n: c for n, c in found}, {n: COUNTS[w] for n, w in enumerate(classes(IMAGES)) if w in COUNTS}, "counts")
    return f"{len(found)} classes, {sum(c for _, c in found)} rows"


@proof("Polars counts the labels without the payloads")
def _():
    import polars

    found = polars.scan_parquet(shards(IMAGES)).group_by("label").len().collect().rows()
    equal(dict(found), {n: COUNTS[w] for n, w in enumerate(classes(IMAGES)) if w in COUNTS}, "counts")
    return f"{len(found)} classes"


@proof("webdataset reads the tars")
def _():
    import webdataset

    folder = convert(ARGS.images, "tar", "--layout", "imagenet", "--format", "webdataset", "--shard-size", "8MiB")
    order, seen = classes(IMAGES), 0
    for sample in webdataset.WebDataset(shards(folder, "tar"), shardshuffle=False, empty_check=False):
        facts = json.loads(sample["json"])
        equal(sample["jpg" if "jpg" in sample else "jpeg"], SOURCES[facts["name"]].read_bytes(), facts["name"])
        equal(order[int(sample["cls"])], facts["name"].split("/")[1])
        seen += 1
    equal(seen, len(SOURCES), "samples")
    return f"{seen} samples of {len(shards(folder, 'tar'))} tars"


def reference(data, size):
    """Whether each video packet of an MP4 file may be leaned on: nal_ref_idc of its slices."""
    at, found = 0, None
    while at + size < len(data):
        length = int.from_bytes(data[at : at + size], "big")
        kind, idc = data[at + size] & 31, data[at + size] >> 5 & 3
        if kind in (1, 5):
            found = idc > 0
        at += size + length
    return found


@proof("ffprobe and PyAV: GOP 32, a reference at every stride-th picture, discardable ones between")
def _():
    import av

    pictures = 0
    for n, row in enumerate(rows(TRAIN, "video")):
        path = OUT / f"clip{n}.mp4"
        path.write_bytes(row["video"]["bytes"])
        show = "-select_streams v -show_entries frame=pict_type,key_frame -of json".split()
        frames = json.loads(command("ffprobe", "-v", "error", *show, path))["frames"]
        equal(len(frames), row["frames"], "frames")
        with av.open(str(path)) as file:
            packets = [p for p in file.demux(video=0) if p.size]
            packets.sort(key=lambda p: p.pts)
            references = [reference(bytes(p), 4) for p in packets]
        for k, frame in enumerate(frames):
            inside = k % 32
            closes = inside == 31 or k == len(frames) - 1
            equal(frame["key_frame"] == 1, inside == 0, f"{path}, picture {k}: key")
            equal(references[k], inside % STRIDE == 0 or closes, f"{path}, picture {k}: reference")
            equal(frame["pict_type"], "I" if inside == 0 else "P" if references[k] else "B")
        # What may be discarded is: the others decode to the same pixels without them.
        md5 = "-map 0:v -vsync passthrough -f framemd5 -".split()
        lines = lambda text: [l.split(b",")[-1] for l in text.splitlines() if not l.startswith(b"#")]
        every = lines(command("ffmpeg", "-v", "error", "-i", path, *md5))
        some = lines(command("ffmpeg", "-v", "error", "-skip_frame", "noref", "-i", path, *md5))
        equal(some, [m for m, r in zip(every, references) if r], f"{path}: pixels")
        pictures += len(frames)
    return f"{pictures} pictures of {n + 1} videos"


def grey(*args):
    """Frames of brightness."""
    import numpy as np

    size, *args = args
    text = command("ffmpeg", "-v", "error", *args, "-vsync", "passthrough", "-pix_fmt", "gray", "-f", "rawvideo", "-")
    return np.frombuffer(text, np.uint8).reshape(-1, size[1], size[0]).astype(float)


@proof("--fps chooses the frames that FFmpeg's fps filter chooses, at exact multiples")
def _():
    import numpy as np

    total = 0
    for fps in ("10", "30000/1001", "25"):
        folder = convert(ARGS.videos, f"fps{fps.replace('/', '-')}", "--video", "train", "--fps", fps, "--crf", "12")
        for n, row in enumerate(list(rows(folder, "video"))[:5]):
            path, size = OUT / "fps.mp4", (row["width"], row["height"])
            path.write_bytes(row["video"]["bytes"])
            source = ARGS.videos / row["video"]["path"]
            scale = f"scale={size[0]}:{size[1]}:flags=bicubic"
            ours = grey(size, "-i", path)
            theirs = grey(size, "-i", source, "-vf", f"fps={fps}:round=near,{scale}")
            equal(len(ours), len(theirs), f"{source.name} at {fps}: frames")
            error = ((ours - theirs) ** 2).mean(axis=(1, 2))
            # A frame too early or too late would fit a neighbour better; where nothing moves, any fits.
            for shift in (-1, 1):
                other = ((ours - np.roll(theirs, shift, axis=0)) ** 2).mean(axis=(1, 2))
                equal(bool((error[2:-2] <= 1.05 * other[2:-2]).all()), True, f"{source.name} at {fps}")
            show = "-select_streams v -show_entries packet=pts -of csv=p=0".split()
            times = sorted(int(t.strip(b",")) for t in command("ffprobe", "-v", "error", *show, path).split())
            equal(len({b - a for a, b in zip(times, times[1:])}), 1, "distances of time stamps")
            total += len(ours)
    return f"{total} frames"


@proof("MDS of mosaicml-streaming is read, under every compression")
def _():
    from streaming import MDSWriter

    names = sorted(SOURCES)[:40]
    known = [hashlib.md5(SOURCES[n].read_bytes()).hexdigest() for n in names]
    for compression in (None, "zstd", "gz", "br", "bz2", "snappy"):
        folder = OUT / f"mds-{compression}"
        columns = {"image": "bytes", "label": "int"}
        with MDSWriter(out=str(folder), columns=columns, compression=compression, size_limit=1 << 20) as out:
            for n, name in enumerate(names):
                out.write({"image": SOURCES[name].read_bytes(), "label": n % 7})
        more = [] if compression is None else ["--unpack"]
        done = convert(folder, f"from-mds-{compression}", "--layout", "mds", *more)
        found = list(rows(done, "image"))
        equal([hashlib.md5(r["image"]["bytes"]).hexdigest() for r in found], known, f"{compression}")
        equal([r["label"] for r in found], [n % 7 for n in range(40)], f"{compression}: labels")
    return "none, zstd, gz, br, bz2, snappy"


@proof("beton of ffcv is read")
def _():
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
    from PIL import Image

    names = sorted(SOURCES)[:24]

    class Pictures:
        def __len__(self):
            return len(names)

        def __getitem__(self, n):
            return Image.open(SOURCES[names[n]]).convert("RGB").resize((96, 64)), n % 5

    for mode in ("jpg", "raw"):
        path = OUT / f"{mode}.beton"
        fields = {"image": RGBImageField(write_mode=mode, jpeg_quality=95), "label": IntField()}
        DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(Pictures())
        found = list(rows(convert(path, f"from-{mode}"), "image"))
        equal([r["label"] for r in found], [n % 5 for n in range(24)], "labels")
        for n, row in enumerate(found):
            ours = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
            if mode == "raw":
                equal(ours.tobytes(), Pictures()[n][0].tobytes(), f"pixels of {n}")
            else:
                equal(ours.size, (96, 64), "size")
    return "jpg, raw"


@proof("tar.gz is converted as it is, to what the plain tar gives")
def _():
    names = sorted(SOURCES)[:60]
    found = []
    for mode, name in (("w", "a.tar"), ("w:gz", "a.tar.gz")):
        (OUT / mode.replace(":", "")).mkdir()
        path = OUT / mode.replace(":", "") / name
        with tarfile.open(path, mode) as tar:
            for n, source in enumerate(names):
                for extension, data in (("jpg", SOURCES[source].read_bytes()), ("cls", str(n % 3).encode())):
                    info = tarfile.TarInfo(f"{n:04}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        done = convert(path, f"from-{name}", "--shard-size", "1MiB")
        found.append([(r["label"], r["image"]["bytes"]) for r in rows(done, "image")])
    equal(len(found[0]), 60, "rows")
    equal(found[0] == found[1], True, "same rows")
    return f"{len(found[0])} rows"


sys.exit(1 if FAILED else 0)

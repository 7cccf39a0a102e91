"""Every layout made from real files: tubelet reads each, and the bytes that it writes are theirs.

    python tests/proof/layouts.py --images DATA/imagenet-sample --videos DATA/kinetics-like --ssv2 DATA/ssv2-like

Needs Python alone, and pyarrow, mosaicml-streaming and ffmpeg for some. One line a layout.
"""

import argparse
import csv
import hashlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

FAILED = []


def sha(data):
    return hashlib.sha256(data).hexdigest()


def run(binary, source, *more):
    """Counts of the closing line, the classes, and the hashes of all samples of a folder output; what it
    says where it fails."""
    with tempfile.TemporaryDirectory() as out:
        command = [binary, "convert", str(source), "-o", out + "/out", "--format", "folder", *map(str, more)]
        done = subprocess.run(command, capture_output=True, text=True)
        text = done.stdout + done.stderr
        line = re.search(r"(\d+) listed = (\d+) written \+ (\d+) missing", text)
        if done.returncode or not line:
            return text.strip()[-400:]
        manifest = json.loads(Path(out, "out/manifest.json").read_text())
        names = ("manifest.json", "manifest.parquet", "classes.txt", "quarantine.tsv")
        files = [p for p in Path(out, "out").rglob("*") if p.is_file() and ".tubelet" not in p.parts]
        hashes = sorted(sha(p.read_bytes()) for p in files if p.name not in names)
        return [int(n) for n in line.groups()], manifest["classes"], hashes


def check(name, got, want, classes=None, missing=0, frames=False):
    if isinstance(got, str):
        FAILED.append(name)
        print(f"FAIL {name}: {got}")
        return
    (listed, written, lacking), names, hashes = got
    wrong = []
    if written != len(want) or lacking != missing or listed != written + missing:
        wrong.append(f"{listed} listed, {written} written, {lacking} missing; {len(want)} wanted")
    if not frames and hashes != sorted(want):
        wrong.append("other bytes")
    if classes is not None and sorted(c["name"] for c in names if c["samples"]) != sorted(classes):
        wrong.append(f"classes {[c['name'] for c in names][:8]}")
    print(("FAIL " if wrong else "PASS ") + f"{name}: {written} samples" + "".join(f"; {w}" for w in wrong))
    if wrong:
        FAILED.append(name)


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def tar(path, members, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as out:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))


def matrix(kind, data):
    padded = data + b"\0" * (-len(data) % 8)
    return struct.pack("<II", kind, len(data)) + padded


def meta_mat(synsets):
    """A struct array `synsets` in a level-5 MAT file, as the devkit has it; no synset has children."""

    def array(kind, dims, name, body):
        flags = matrix(6, struct.pack("<II", kind, 0))
        return matrix(14, flags + matrix(5, struct.pack(f"<{len(dims)}i", *dims)) + matrix(1, name) + body)

    fields = b"".join(f.ljust(32, b"\0") for f in (b"ILSVRC2012_ID", b"WNID", b"num_children"))
    cells = b"".join(
        array(6, (1, 1), b"", matrix(9, struct.pack("<d", n)))
        + array(4, (1, len(w)), b"", matrix(4, w.encode("utf-16-le")))
        + array(6, (1, 1), b"", matrix(9, struct.pack("<d", 0)))
        for n, w in synsets
    )
    body = matrix(5, struct.pack("<i", 32)) + matrix(1, fields) + cells
    header = b"MATLAB 5.0 MAT-file".ljust(124, b" ") + struct.pack("<HH", 0x0100, 0x4D49)
    return header + array(2, (len(synsets), 1), b"synsets", body)


def images(binary, root, work):
    train = {d.name: sorted(d.iterdir()) for d in sorted((root / "train").iterdir())}
    val = {d.name: sorted(d.iterdir()) for d in sorted((root / "val").iterdir())}
    files = [p for ps in train.values() for p in ps]
    want = [sha(p.read_bytes()) for p in files]
    check("ImageNet folders", run(binary, root), want, train)
    held = [sha(p.read_bytes()) for ps in val.values() for p in ps]
    check("ImageNet folders, validation", run(binary, root, "--split", "validation"), held, val)

    ilsvrc = work / "ilsvrc"
    inner = []
    for wnid, ps in train.items():
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as out:
            for n, p in enumerate(ps):
                out.add(p, f"{wnid}_{n + 1}.JPEG")
        inner.append((f"{wnid}.tar", data.getvalue()))
    tar(ilsvrc / "ILSVRC2012_img_train.tar", inner)
    wnids = sorted(set(train) | set(val))
    ids = {w: len(wnids) - n for n, w in enumerate(wnids)}
    photos = [(w, p) for w, ps in val.items() for p in ps]
    members = [(f"ILSVRC2012_val_{n + 1:08}.JPEG", p.read_bytes()) for n, (_, p) in enumerate(photos)]
    tar(ilsvrc / "ILSVRC2012_img_val.tar", members)
    truth = "".join(f"{ids[w]}\n" for w, _ in photos)
    kit = [
        ("ILSVRC2012_devkit_t12/data/meta.mat", meta_mat([(i, w) for w, i in ids.items()])),
        ("ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", truth.encode()),
    ]
    tar(ilsvrc / "ILSVRC2012_devkit_t12.tar.gz", kit, "w:gz")
    check("ILSVRC2012 archives", run(binary, ilsvrc), want, train)
    check("ILSVRC2012 archives, validation", run(binary, ilsvrc, "--split", "val"), held, val)

    folder = work / "folder"
    for n, p in enumerate(files[:40]):
        put(folder / f"class {n % 4}" / p.name, p.read_bytes())
    check("folders per class", run(binary, folder), want[:40], [f"class {n}" for n in range(4)])

    pairs = []
    for n, p in enumerate(files[:40]):
        pairs += [(f"s/{n:05}.jpg", p.read_bytes()), (f"s/{n:05}.cls", str(n % 4).encode())]
    tar(work / "wds/train-000000.tar", pairs[:40])
    tar(work / "wds/train-000001.tar", pairs[40:])
    check("WebDataset", run(binary, work / "wds"), want[:40], [str(n) for n in range(4)])
    tar(work / "wdsgz/train-000000.tar.gz", pairs, "w:gz")
    check("WebDataset, compressed", run(binary, work / "wdsgz"), want[:40])

    listed = "".join(f"{p} {n % 4}\n" for n, p in enumerate(files[:40]))
    put(work / "list.txt", listed)
    check("list of pictures", run(binary, work / "list.txt"), want[:40])
    onramps(binary, files[:40], want[:40], work)


def onramps(binary, files, want, work):
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [{"bytes": p.read_bytes(), "path": p.name} for p in files]
        table = pa.table({"image": rows, "label": [n % 4 for n in range(len(files))]})
        names = ["a", "b", "c", "d"]
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        meta = {"huggingface": json.dumps({"info": {"features": features}})}
        (work / "hf/data").mkdir(parents=True)
        pq.write_table(
            table.replace_schema_metadata(meta), work / "hf/data/train-00000-of-00001.parquet", row_group_size=16
        )
        check("Hugging Face Parquet", run(binary, work / "hf"), want, names)
    except ImportError:
        print("SKIP Hugging Face Parquet: no pyarrow")
    try:
        from streaming import MDSWriter

        with MDSWriter(out=str(work / "mds"), columns={"x": "bytes", "y": "int"}) as out:
            for n, p in enumerate(files):
                out.write({"x": p.read_bytes(), "y": n % 4})
        check("MosaicML MDS", run(binary, work / "mds"), want)
    except ImportError:
        print("SKIP MosaicML MDS: no mosaicml-streaming")


def videos(binary, root, work):
    clips = sorted((root / "train").glob("*.mp4"))
    want = [sha(p.read_bytes()) for p in clips]
    with open(root / "annotations/train.csv") as f:
        rows = list(csv.DictReader(f))
    name = lambda r: f"{r['youtube_id']}_{int(r['time_start']):06}_{int(r['time_end']):06}"
    label = {name(r): r["label"] for r in rows}
    missing = len(rows) - len(clips)
    classes = {label[p.stem] for p in clips}
    check("Kinetics, flat", run(binary, root), want, classes, missing)

    nested = work / "nested"
    shutil.copytree(root / "annotations", nested / "annotations")
    for p in clips:
        put(nested / "train" / label[p.stem] / p.name, p.read_bytes())
    check("Kinetics, a folder a class", run(binary, nested), want, classes, missing)

    short = work / "short"
    shutil.copytree(root / "annotations", short / "annotations")
    for p in clips:
        put(short / "train" / (p.stem.rsplit("_", 2)[0] + ".mp4"), p.read_bytes())
    check("Kinetics, names without times", run(binary, short), want, classes, missing)

    official = work / "json"
    entries = {
        r["youtube_id"]: {
            "annotations": {"label": r["label"], "segment": [float(r["time_start"]), float(r["time_end"])]},
            "duration": float(r["time_end"]) - float(r["time_start"]),
            "subset": "train",
            "url": f"https://www.youtube.com/watch?v={r['youtube_id']}",
        }
        for r in rows
    }
    put(official / "annotations/train.json", json.dumps(entries))
    for p in clips:
        put(official / "train" / p.name, p.read_bytes())
    check("Kinetics, JSON", run(binary, official), want, classes, missing)

    cvdf = work / "cvdf"
    shutil.copytree(root / "annotations", cvdf / "annotations")
    for part in range(2):
        members = [(p.name, p.read_bytes()) for p in clips[part::2]]
        tar(cvdf / f"train/part_{part}.tar.gz", members, "w:gz")
    check("Kinetics, CVDF archives", run(binary, cvdf), want, classes, missing)

    ucf = work / "ucf"
    for n, p in enumerate(clips):
        put(ucf / f"UCF-101/Class{n % 3}/v_Class{n % 3}_g{n + 1:02}_c01.avi", p.read_bytes())
    put(ucf / "ucfTrainTestlist/classInd.txt", "".join(f"{n + 1} Class{n}\n" for n in range(3)))
    for split in (1, 2, 3):
        chosen = [n for n in range(len(clips)) if n % 3 != split - 1]
        lines = [f"Class{n % 3}/v_Class{n % 3}_g{n + 1:02}_c01.avi {n % 3 + 1}\n" for n in chosen]
        put(ucf / f"ucfTrainTestlist/trainlist0{split}.txt", "".join(lines))
        rest = [n for n in range(len(clips)) if n % 3 == split - 1]
        lines = [f"Class{n % 3}/v_Class{n % 3}_g{n + 1:02}_c01.avi\n" for n in rest]
        put(ucf / f"ucfTrainTestlist/testlist0{split}.txt", "".join(lines))
    first = [want[n] for n in range(len(clips)) if n % 3 != 0]
    check("UCF101", run(binary, ucf), first)

    hmdb = work / "hmdb"
    lines = {0: "", 1: ""}
    for n, p in enumerate(clips):
        file = f"a #{n}! (x)_{n}.avi"
        put(hmdb / f"class{n % 2}" / file, p.read_bytes())
        lines[n % 2] += f"{file} {1 if n % 4 < 2 else 2}\n"
    for c in (0, 1):
        for split in (1, 2, 3):
            put(hmdb / f"testTrainMulti_7030_splits/class{c}_test_split{split}.txt", lines[c])
    trained = [want[n] for n in range(len(clips)) if n % 4 < 2]
    check("HMDB51", run(binary, hmdb), trained, ["class0", "class1"])

    for separator in (" ", ",", ";"):
        text = "".join(f"{p}{separator}{n % 3}\n" for n, p in enumerate(clips))
        put(work / "videos.csv", text)
        got = run(binary, work / "videos.csv", "--separator", separator)
        check(f"list of videos, `{separator}`", got, want)

    if ffmpeg := shutil.which("ffmpeg"):
        frames, text = work / "frames", ""
        for n, p in enumerate(clips[:3]):
            (frames / p.stem).mkdir(parents=True)
            pattern = frames / p.stem / "img_%05d.jpg"
            subprocess.run([ffmpeg, "-v", "error", "-i", p, "-frames:v", "20", pattern], check=True)
            text += f"{p.stem} 20 {n}\n"
        put(frames / "train.txt", text)
        check("folders of frames", run(binary, frames, "--layout", "frames"), want[:3], frames=True)
        v1, ids = work / "v1", ["12", "7", "100"]
        for n, p in zip(ids, clips):
            (v1 / "20bn-something-something-v1" / n).mkdir(parents=True)
            pattern = v1 / "20bn-something-something-v1" / n / "%05d.jpg"
            subprocess.run([ffmpeg, "-v", "error", "-i", p, "-frames:v", "12", pattern], check=True)
        put(v1 / "something-something-v1-labels.csv", "Doing a\nDoing b\n")
        put(v1 / "something-something-v1-train.csv", "".join(f"{n};Doing {'ab'[k % 2]}\n" for k, n in enumerate(ids)))
        check("Something-Something v1", run(binary, v1), want[:3], ["Doing a", "Doing b"], frames=True)
    else:
        print("SKIP folders of frames: no ffmpeg")


def ssv2(binary, root, work):
    clips = {p.stem: sha(p.read_bytes()) for p in (root / "20bn-something-something-v2").glob("*.webm")}
    items = json.loads((root / "labels/train.json").read_text())
    want = [clips[i["id"]] for i in items if i["id"] in clips]
    classes = {re.sub(r"[\[\]]", "", i["template"]) for i in items}
    missing = len(items) - len(want)
    check("Something-Something v2", run(binary, root), want, classes, missing)
    mp4 = work / "mp4"
    shutil.copytree(root / "labels", mp4 / "labels")
    for p in (root / "20bn-something-something-v2").glob("*.webm"):
        put(mp4 / "20bn-something-something-v2" / (p.stem + ".mp4"), p.read_bytes())
    check("Something-Something v2, .mp4", run(binary, mp4), want, classes, missing)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tubelet", default="target/release/tubelet")
    for kind in ("images", "videos", "ssv2"):
        parser.add_argument(f"--{kind}", type=Path, required=True)
    args = parser.parse_args()
    binary = os.path.abspath(args.tubelet)
    for what, root in ((images, args.images), (videos, args.videos), (ssv2, args.ssv2)):
        with tempfile.TemporaryDirectory() as work:
            what(binary, root.resolve(), Path(work))
    sys.exit(1 if FAILED else 0)


if __name__ == "__main__":
    main()

#!/usr/bin/env bash
# Device tests, benches, decoding and training on a GPU; what they print is kept in results/.
# Goes on after a failure and ends with it.
set -uo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
cd "$here"
mkdir -p results
export LD_LIBRARY_PATH="$here/lib:$here/nvrtc${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export TUBELET_REQUIRE_NVRTC=1 TUBELET_REQUIRE_GPU=1 RUST_BACKTRACE=1
export TUBELET_KERNEL_CACHE="${TUBELET_KERNEL_CACHE:-$here/kernel-cache}"

# The libraries of the folder where it has them, else those of this machine.
if [ -d nvrtc ]; then export TUBELET_NVRTC="${TUBELET_NVRTC:-$here/nvrtc}"; fi
if [ -d nvjpeg ]; then export TUBELET_NVJPEG="${TUBELET_NVJPEG:-$here/nvjpeg}"; fi
if [ -z "${CUDA_PATH:-}" ] && [ -d cuda ] && [ ! -e /usr/local/cuda ] && [ ! -e /opt/cuda ]; then
    export CUDA_PATH="$here/cuda"
fi
# Training looks for NVRTC under this name, through the system's loader.
if [ ! -d nvrtc ]; then
    for found in "${TUBELET_NVRTC:-}" "${CUDA_PATH:-/usr/local/cuda}"/lib64 /usr/local/cuda/targets/*/lib; do
        library="$(ls "$found"/libnvrtc.so.* 2>/dev/null | grep -v alt | head -1 || true)"
        if [ -n "$library" ]; then
            mkdir -p lib
            ln -sf "$library" lib/libnvrtc.so
            break
        fi
    done
fi

failed=()
# Runs the rest of its arguments and keeps what they print.
step() {
    local name="$1"
    shift
    echo "== $name: $*"
    if ! "$@" 2>&1 | tee "results/$name.txt"; then failed+=("$name"); fi
}

if ! ./gpu-bench --device | tee results/device.txt; then exit 2; fi
if command -v nvidia-smi >/dev/null; then nvidia-smi | tee -a results/device.txt; fi
step tests ./gpu-tests --test-threads=1
if [ -x decode-tests ]; then step decode-tests ./decode-tests --test-threads=1 decode::; fi
if [ -x trainer-tests ]; then step trainer-tests ./trainer-tests --test-threads=1 feed; fi
step bench ./gpu-bench
if [ -x tubelet ]; then
    load=(./tubelet bench data/train --recipe videomae-tiny --batch 8 --seconds 5)
    step loader "${load[@]}"
    step device-stage "${load[@]}" --stage device
    step decode-gpu "${load[@]}" --decode gpu --stage device
    step decode-auto "${load[@]}" --decode auto --stage device
    if [ -x trainer-tests ]; then
        train=(./tubelet pretrain --recipe videomae-tiny --data data/train --device cuda
            --batch-size 8 --epochs 20 --max-steps 30)
        rm -rf results/run-*
        step train-f32 env RUST_LOG=info "${train[@]}" --out results/run-f32
        step train-bf16 env RUST_LOG=info "${train[@]}" --precision bf16 --out results/run-bf16
        step train-decode-gpu "${train[@]}" --decode gpu --out results/run-decode-gpu
        # What costs most in a step: a table by kernel, and one by copy.
        if command -v nsys >/dev/null; then
            step profile nsys profile --stats=true --force-overwrite=true --output=results/step \
                ./tubelet pretrain --recipe videomae-vit-b-k400 --data data/train --device cuda \
                --precision bf16 --batch-size 16 --max-steps 10 --checkpoint-every 1000 \
                --set pretrain.train.accumulate=1 --set pretrain.train.warmup_epochs=0 \
                --out results/run-profile
        fi
    fi
fi
if python3 -c 'import torch' 2>/dev/null; then
    step hog-torch python3 hog_torch.py
    if [ -x trainer-tests ] && [ -x tubelet ]; then step step-torch python3 step_torch.py; fi
fi
if [ "${#failed[@]}" -gt 0 ]; then
    echo "failed: ${failed[*]}" | tee results/failed.txt
    exit 1
fi

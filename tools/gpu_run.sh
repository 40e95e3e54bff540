#!/usr/bin/env bash
# The GPU run: all models remade on a lent machine without network. In the root of the checkout, OUT naming an empty folder:
#
#     bash tools/gpu_run.sh smoke      at most 90 s: versions, the card, one minute of every job, tails of the logs of what failed
#     bash tools/gpu_run.sh full       at most 540 s: remake --minutes 8.6
#
# NAMES="mini-vae mini-sd ..." MINUTES=9 before the command: only those, and how long. tools/gpu_probe.py says how fast each recipe is
# alone. Run on 2026-11-26 on one H100 with MPS=1: 26 of 26 done in 534 of 552 s.
#
# What comes back in $OUT: remake-index.zip and at most 6 remake-N.zip, for `minidiff unpack DIR --all`; written anew after every
# job, so that a kill loses nothing that was done.
#
# What travels (less than 64 MiB in all): minidiff/ and tools/. Nothing in data/ or notebooks/ is needed (81 MB: leave them out),
# everything that a job loads is made by a job before it. Ignored, so named in carry: .whl/ with diffusers as a wheel,
#     python3 -m pip download --no-deps --only-binary=:all: -d .whl diffusers==VERSION
# The machine has the rest: Python 3.12, torch 2.11 with CUDA, transformers, safetensors, filelock, tqdm, packaging, pillow.
# MPS=1 before the command: one CUDA server for all jobs, so that their kernels run at the same time; left out where it fails.
set -uo pipefail
mode=${1:-}; began=$SECONDS
case $mode in smoke) minutes=${MINUTES:-1};; full) minutes=${MINUTES:-8.6};; *) sed -n '2,5p' "$0"; exit 2;; esac
: "${OUT:?an empty folder for what comes back}"
PYTHON=${PYTHON:-python3}; DEVICE=${DEVICE:-cuda}; work=$(mktemp -d); run=$work/remake
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 MPLBACKEND=Agg
say() { echo "== $((SECONDS - began)) s: $*"; }
if compgen -G '.whl/*.whl' >/dev/null; then
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$work/site" .whl/*.whl || exit 1
    export PYTHONPATH=$work/site:$PYTHONPATH
fi
if [ "$mode" = smoke ]; then
    say "versions"
    command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,memory.total,memory.used,driver_version --format=csv,noheader
    command -v nvidia-cuda-mps-control || echo "no nvidia-cuda-mps-control"
    "$PYTHON" - >"$work/versions.txt" 2>&1 <<'PY' &
import importlib, os, platform, torch
print("python", platform.python_version(), "cores", os.cpu_count(), "cuda", torch.cuda.is_available())
for name in ("torch", "diffusers", "transformers", "safetensors", "filelock", "tqdm", "packaging", "PIL"):
    try:
        module = importlib.import_module(name)
        print(name, getattr(module, "__version__", "?"), module.__file__)
    except Exception as error:
        print(name, "CANNOT BE IMPORTED:", repr(error))
try:
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    print("diffusers: the pipeline's classes import")
except Exception as error:
    print("diffusers: the pipeline's classes CANNOT BE IMPORTED:", repr(error))
PY
fi
if [ "${MPS:-0}" = 1 ] && command -v nvidia-cuda-mps-control >/dev/null; then
    export CUDA_MPS_PIPE_DIRECTORY=$work/mps CUDA_MPS_LOG_DIRECTORY=$work/mps-log; mkdir -p "$work/mps" "$work/mps-log"
    nvidia-cuda-mps-control -d
    trap 'echo quit | timeout 10 nvidia-cuda-mps-control' EXIT
    if timeout 40 "$PYTHON" -c 'import torch; print("MPS:", torch.ones(9, device="cuda").sum().item())'; then say "MPS serves"
    else
        say "MPS does not serve: going on without"; echo quit | timeout 10 nvidia-cuda-mps-control; trap - EXIT
        unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
    fi
fi
say "remake --minutes $minutes"
"$PYTHON" -m minidiff remake ${NAMES:-} --device "$DEVICE" --minutes "$minutes" --out "$run" --pack "$OUT"
code=$?
say "remake ended with $code"
[ "$mode" = smoke ] && cat "$work/versions.txt"
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=memory.used,utilization.gpu --format=csv,noheader
"$PYTHON" - "$run" <<'PY'
import json, sys
from pathlib import Path
run = Path(sys.argv[1])
for log in sorted((run / "logs").rglob("*.log")):
    name = log.relative_to(run / "logs").with_suffix("").as_posix()
    state = run / "jobs" / f"{name}.json"
    how = json.loads(state.read_text())["state"] if state.exists() else "no state"
    if how not in ("done", "stopped"):
        print(f"--- {name}: {how}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-25:]))
PY
ls -l "$OUT"
say "end"
exit $code

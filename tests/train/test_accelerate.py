"""Two processes under accelerate: the same batches, the same run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
import train_child
from train_child import draw, final, recipe

from minidiff.train import fit


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(folder: Path, word: str, job: dict[str, str]) -> subprocess.CompletedProcess[str]:
    options = {"num_machines": 1, "num_processes": 2, "mixed_precision": "no", "dynamo_backend": "no",
               "num_cpu_threads_per_process": 1, "main_process_ip": "127.0.0.1", "main_process_port": free_port()}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu",
               *(f"--{name}={value}" for name, value in options.items()), train_child.__file__, word, json.dumps(job)]
    environment = os.environ | {"HF_HOME": str(folder / "hf"), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1",
                                "ACCELERATE_USE_CPU": "true"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_two_processes_go_on_with_the_run_of_one(tmp_path: Path) -> None:
    """One process takes 5 steps of 12, two take the rest: parameters, EMA, moments and losses as if one had done it all.

    In float32: half a batch rounds to bfloat16 otherwise than a whole one, which is no fault of the processes.
    """
    settings = {"images": 48, "device": "cpu", "precision": "float32", "log": lambda _: None}
    for state in fit(recipe(plain=True), out=tmp_path / "both", **settings):
        if state.step == 5:
            break
    list(fit(recipe(plain=True), out=tmp_path / "one", **settings))

    done = launch(tmp_path, "team", {"out": str(tmp_path / "both"), "rows": str(tmp_path / "rows")})
    assert done.returncode == 0, done.stderr

    one, both = final(tmp_path / "one"), final(tmp_path / "both")
    assert one.keys() == both.keys()
    for name in one:
        torch.testing.assert_close(both[name], one[name], rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
    assert not torch.equal(one["losses"][5:], torch.zeros(7)) and len(one["losses"]) == 12
    said = (tmp_path / "rows-said").read_text().splitlines()
    assert said[-1] == "Going on from step 5, 20 of 48 images." and "processes 1 then, 2 now" in said[0]

    halves = [json.loads((tmp_path / f"rows-{rank}").read_text()) for rank in (0, 1)]
    for step in range(7):
        assert halves[0][step] + halves[1][step] == draw(5 + step, 4, torch.device("cpu"))["t"].tolist()
        assert len(halves[0][step]) == len(halves[1][step]) == 2

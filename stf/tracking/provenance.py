"""Where a run comes from: the commit, the DVC experiment, the machine."""

from __future__ import annotations

import os
import platform
import subprocess

import psutil
import torch

from stf.io.cores import processor_name

# What the stages themselves rewrite, and params.yaml, which the run records in full, do not make a commit dirty.
_WRITTEN_BY_STAGES = (":!metrics", ":!dvc.lock", ":!params.yaml")


def _git(*arguments: str) -> str | None:
    """The output of a git command in the working folder; None without git or outside a repository."""
    try:
        done = subprocess.run(("git", *arguments), capture_output=True, text=True, check=True, timeout=30)
    except (FileNotFoundError, subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip()


def code_provenance() -> dict[str, str]:
    """Tags naming the code: commit, whether tracked code differs from it, DVC stage, experiment and baseline.

    Under `dvc exp run` the commit is the experiment's baseline: what DVC commits in its throw-away copy is gone later.
    """
    tags: dict[str, str] = {}
    commit = os.environ.get("DVC_EXP_BASELINE_REV") or _git("rev-parse", "HEAD")
    if commit:
        changed = _git("diff", "--name-only", commit, "--", ".", *_WRITTEN_BY_STAGES)
        tags["mlflow.source.git.commit"] = commit
        tags["git.commit"] = commit
        tags["git.dirty"] = "unknown" if changed is None else str(changed != "").lower()
    dvc = {"stage": "DVC_STAGE", "experiment": "DVC_EXP_NAME", "baseline_rev": "DVC_EXP_BASELINE_REV"}
    tags |= {f"dvc.{name}": os.environ[key] for name, key in dvc.items() if os.environ.get(key)}
    return tags


def machine_provenance() -> dict[str, str]:
    """Tags naming the machine: processor, cores, memory (GiB), GPU, threads, versions of Python, torch and CUDA."""
    tags = {
        "machine.cpu": processor_name(),
        "machine.cores": str(psutil.cpu_count(logical=True)),
        "machine.ram_gib": f"{psutil.virtual_memory().total / 2**30:.1f}",
        "machine.os": platform.platform(terse=True),
        "machine.threads": str(torch.get_num_threads()),
        "machine.python": platform.python_version(),
        "machine.torch": torch.__version__,
        "machine.gpu": "none",
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        tags["machine.gpu"] = f"{torch.cuda.device_count()} x {properties.name}"
        tags["machine.gpu_memory_gib"] = f"{properties.total_memory / 2**30:.1f}"
        tags["machine.cuda"] = str(torch.version.cuda)
    return tags

"""Pretrained weights of a timm backbone: from `model.spatial_weights`, a local file, or from timm's hub.

A file is read as safetensors or as plain tensors, never as code, and must hold every tensor that the network uses.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from torch import Tensor, nn

from stf.config import STFV8Config
from stf.errors import CheckpointError, ConfigError
from stf.models.checkpoint import read_checkpoint
from stf.models.timm_stages import TimmStages, build_timm_network, timm_config

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
REACHED_WITHIN_S = 5
SHOWN_NAMES = 4


def load_spatial_weights(model: nn.Module, config: STFV8Config) -> str:
    """Gives a new network's timm backbone its weights; returns what was loaded, or "" where there is no such backbone.

    Raises CheckpointError when the file does not exist, cannot be read or does not fit, or when the hub cannot be
    reached, ConfigError when timm has no weights of that name.
    """
    stages = next((module for module in model.modules() if isinstance(module, TimmStages)), None)
    if stages is None:
        return ""
    path = Path(config.spatial_weights) if config.spatial_weights else hub_file(stages.name)
    weights = read_timm_weights(path, stages.name)
    try:
        network, *_ = build_timm_network(stages.name, stages.img_size, weights)
    except (RuntimeError, KeyError, ValueError) as error:  # shapes, or names that timm cannot translate
        raise CheckpointError(f"{path} does not fit {stages.name}: {_first_lines(error)}") from None
    missing = missing_tensors(stages, weights)
    if missing:
        raise CheckpointError(
            f"{path} does not fit {stages.name}: it lacks {len(missing)} of the "
            f"{len(network.state_dict())} tensors that are used ({_shown(missing)}); it holds {_shown(list(weights))}"
        )
    stages.load(network.state_dict())
    return f"{stages.name}: {len(network.state_dict())} tensors from {path}"


def missing_tensors(stages: TimmStages, weights: dict[str, Tensor]) -> list[str]:
    """Names of the network's tensors that `weights` do not reach.

    timm leaves out what does not fit and says nothing, after translating names. So a second network is given NaN
    under the same names: what is finite in it was not taken from them. Counters (integers) are not asked for.
    """
    probe = {
        name: torch.full_like(w, torch.nan) if w.is_floating_point() else w for name, w in weights.items()
    }
    network, *_ = build_timm_network(stages.name, stages.img_size, probe)
    state = network.state_dict().items()
    return [name for name, w in state if w.is_floating_point() and not w.isnan().any()]


def read_timm_weights(path: Path, name: str) -> dict[str, Tensor]:
    """The tensors in a timm checkpoint (.safetensors, or what torch.save wrote); raises CheckpointError."""
    try:
        weights = read_checkpoint(path).weights
    except CheckpointError as error:
        raise CheckpointError(
            f"model.spatial_weights: {error}. It must be a file of timm's {name} (.safetensors or .pth), or empty for "
            "timm's hub"
        ) from None
    if not all(value.isfinite().all() for value in weights.values()):
        raise CheckpointError(
            f"model.spatial_weights: {path} holds NaN or infinite weights; take another copy"
        )
    return weights


def hub_file(name: str) -> Path:
    """The weights' file in the hub's local cache, downloaded on first use."""
    repository = timm_config(name).hf_hub_id
    if not repository:
        raise ConfigError(
            f"timm has no pretrained weights of {name} on its hub; set model.spatial_weights to a file, or take "
            "one of timm.list_pretrained()"
        )
    for file in HUB_FILES:
        try:
            return Path(hf_hub_download(repository, file, local_files_only=True))
        except EntryNotFoundError:  # not in the cache
            continue
    _require_hub(name)
    for file in HUB_FILES:
        try:
            return Path(hf_hub_download(repository, file))
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as error:
            raise CheckpointError(
                f"timm's weights of {name} could not be downloaded from {repository}: {_first_lines(error)}"
            ) from None
    raise CheckpointError(
        f"{repository} holds none of {', '.join(HUB_FILES)}; set model.spatial_weights to a file"
    )


def _require_hub(name: str) -> None:
    """Raises CheckpointError when the hub does not answer: its own client would try for a minute."""
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=REACHED_WITHIN_S).close()
    except urllib.error.HTTPError:
        return  # an answer
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise CheckpointError(
            f"the pretrained weights of {name} are not on this machine, and {constants.ENDPOINT} cannot be reached "
            f"({reason}): set model.spatial_weights to a local file, or run once with a network"
        ) from None


def _shown(names: list[str]) -> str:
    return ", ".join(names[:SHOWN_NAMES]) + (", …" if len(names) > SHOWN_NAMES else "")


def _first_lines(error: Exception) -> str:
    """The message on one line, cut to 300 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:299] + "…"

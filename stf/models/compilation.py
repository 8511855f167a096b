"""torch.compile for the stem and the blocks of stages 1 to 4, each by itself.

Not the network as one graph: snakes and Mamba's scan are loops of hand-written derivatives that stay as they are, and
with every block of a kind using the same code, a kind is compiled once. The gain is fused norms, activations and
element-wise steps. Results differ by rounding. A copy of the network, such as the moving average, is not compiled.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys

from torch import nn

from stf.errors import ConfigError
from stf.models.checkpointing import CheckpointedBlock
from stf.models.early_stages import Stem


def compile_blocks(model: nn.Module, device: str) -> None:
    """Compiles them when they are first called: one to two minutes. The weights keep their names.

    Raises ConfigError when this machine lacks what torch.compile calls on `device`.
    """
    lacking = _lacking(device)
    if lacking:
        raise ConfigError(
            f"runtime.compile needs {lacking}, which is not installed; install it or set runtime.compile to false"
        )
    for module in model.modules():
        if isinstance(module, CheckpointedBlock | Stem):
            module.compile()


def _lacking(device: str) -> str:
    """What is missing, in words, or an empty string."""
    if device.startswith("cuda"):
        if importlib.util.find_spec("triton") is None:
            return "the package triton"
        compiler, language = os.environ.get("CC") or shutil.which("gcc") or "clang", "C"  # as triton chooses
    else:
        usual = "clang++" if sys.platform == "darwin" else "g++"
        compiler, language = os.environ.get("CXX", usual), "C++"  # as torch's inductor chooses
    return "" if shutil.which(compiler) else f"the {language} compiler {compiler}"

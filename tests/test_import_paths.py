"""The author's import paths: each works alone in a fresh process and resolves to what docs/import-paths.md says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROW = re.compile(r"\| `(stf[\w.]+)` \| (.+?) \| (?:here|`([\w.]+)`(?:, as `(\w+)`)?) \|")
ROWS = [
    match.groups()
    for match in map(ROW.fullmatch, (ROOT / "docs/import-paths.md").read_text().splitlines())
    if match
]
PUBLIC = {
    "stf.models.config": "STFV8Config",
    "stf.models.losses": "STFV8Loss",
    "stf.models.backbone_v73": "STFMambaV73",
    "stf.models.backbone_v8": "STFMambaV8",
    "stf.models.hydra_mixer": "HydraQuasiseparableMixer MamerBlock PNMamerStage Conv1DSequenceMixer",
    "stf.models.wss_module": "WaveletSelectiveScan",
    "stf.models.dwt_3d": "STF3DDWTModule",
    "stf.models.dcconv_3d": "DCConv3DBlock",
    "stf.models.mamba_blocks": "MambaVisionMixer",
    "stf.models.transformer_blocks": "TransformerBlock",
    "stf.models.drop_path": "DropPath",
    "stf.models.wavelet_constants": "SYM2_DEC_LO SYM2_DEC_HI",
    "stf.data.blend": "alpha_blend dynamic_blend get_blend_mask",
    "stf.data.funcs": "load_json IoUfrom2bboxes crop_face RandomDownScale init_ff",
    "stf.data.augmentations": "MultiScaleBrownianDrift CompressionAugmentation TPSMaskDeformation",
    "stf.data.video_sbi_dataset": "VideoSBIDataset collate_fn",
    "stf.training.budget_tracker": "BudgetTracker",
    "stf.utils.checkpoint": "save_checkpoint load_checkpoint_flexible",
    "stf.utils.logging": "CSVLogger ConsoleLogger",
}
# A fork for each path, after the libraries: cycles among our own modules show, and torch is loaded once, not 19 times.
ALONE = """
import importlib, json, os, sys
import albumentations, av, cv2, pywt, rich, timm, torch
assert not [name for name in sys.modules if name.split(".")[0] == "stf"]
failed = []
for path, names in json.loads(sys.argv[1]).items():
    child = os.fork()
    if child == 0:
        module = importlib.import_module(path)
        os._exit(0 if all(hasattr(module, name) for name in names.split()) else 1)
    if os.waitpid(child, 0)[1]:
        failed.append(path)
sys.exit(", ".join(failed) or 0)
"""


def test_every_path_is_importable_alone() -> None:
    """No path needs another to be imported first, and none is part of a cycle."""
    done = subprocess.run(
        (sys.executable, "-c", ALONE, json.dumps(PUBLIC)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_table_of_the_docs_has_every_public_name() -> None:
    listed = {(module, name) for module, names, _, _ in ROWS for name in re.findall(r"`(\w+)`", names)}
    assert {(module, name) for module, names in PUBLIC.items() for name in names.split()} <= listed


@pytest.mark.parametrize(("module", "names", "home", "there"), ROWS)
def test_a_name_is_that_of_its_home(module: str, names: str, home: str | None, there: str | None) -> None:
    for name in re.findall(r"`(\w+)`", names):
        here = getattr(import_module(module), name)
        assert here is getattr(import_module(home or module), there or name)
        assert getattr(here, "__module__", module) == (home or module)

"""How far each number of params.yaml may go, ends included.

Beyond them lies a slip of the finger (a batch of a billion) or a file of somebody's who wishes this machine ill; the
conditions that say what a value means stand in stf.config.
"""

from __future__ import annotations

LONGEST_INTEGER = 2**63 - 1

_SHARE = (0.0, 1.0)
_WIDTH = (1, 8192)
_BLOCKS = (1, 128)
_PERIOD = (1, 1_000_000_000)
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, LONGEST_INTEGER),
    # data, sbi, audit
    "num_frames": (8, 1024),
    "img_size": (32, 2048),
    "train_pairs_per_video": (1, 10_000),
    "val_pairs_per_video": (1, 10_000),
    "max_failure_share": _SHARE,
    "tps_probability": _SHARE,
    "compression_probability": _SHARE,
    "drift_max_cumulative": (0, 1000),
    "pairs": (200, 1_000_000),
    "auc_tolerance": (0, 0.5),
    "win_rate_tolerance": (0, 0.5),
    # model
    **dict.fromkeys(("stem_dim", "stage1_dim", "stage2_dim", "stage3_dim", "stage4_dim"), _WIDTH),
    **dict.fromkeys(("stage1_blocks", "stage2_blocks", "stage3_blocks", "stage4_blocks"), _BLOCKS),
    "dwt_channels": _WIDTH,
    "dwt_hidden_dim": _WIDTH,
    "d_state": (1, 4096),
    "d_conv": (1, 64),
    "ssm_expand": (1, 16),
    "num_heads": (1, 256),
    "mlp_ratio": (0, 64),
    "dropout": _SHARE,
    "drop_path": _SHARE,
    "dcconv_kernel_length": (3, 99),
    # training, phases
    "batch_size": (2, 65_536),
    "grad_accum": (1, 65_536),
    "weight_decay": (0, 100),
    "lr": (
        0,
        1e30,
    ),  # far too much already, but training itself says so, at the first loss that is not finite
    "min_lr": (0, 1e30),
    "backbone_lr_scale": (0, 1000),
    "label_smoothing": _SHARE,
    "hll_loss_weight": (0, 1e6),
    "hll_loss_margin": (0, 1e6),
    "max_grad_norm": (0, 1e9),
    "ema_decay": _SHARE,
    "epochs": (1, 100_000),
    "warmup_epochs": (0, 100_000),
    "min_phase_a_auc": _SHARE,
    # budget, evaluation
    "cost_per_hour": (0, 1e6),
    "max_budget": (0, 1e9),
    "safety_margin": _SHARE,
    "clips_per_video": (1, 10_000),
    "bootstrap_samples": (100, 1_000_000),
    # runtime
    "threads": (0, 4096),
    "num_workers": (0, 1024),
    "log_every_steps": _PERIOD,
    "empty_cache_every": (0, _PERIOD[1]),
    "checkpoint_minutes": (0, 1e6),
}
MAX_PARAMETERS = 4_000_000_000  # of a network: 16 GB of weights


def out_of_range(name: str, value: object) -> str:
    """' is 10; it must be between 0 and 1' for a number that is outside the range of `name`, else ''."""
    if name not in RANGES or isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    low, high = RANGES[name]
    if low <= value <= high:
        return ""
    return f" is {value:g}; it must be between {low:g} and {high:g}"

"""Checkpoints under the name the author's notes import them by."""

from stf.models.checkpoint import load_checkpoint_flexible, save_checkpoint

__all__ = ["load_checkpoint_flexible", "save_checkpoint"]

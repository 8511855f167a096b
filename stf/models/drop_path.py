"""Stochastic depth, timm's, under the name the author's notes import it by."""

from timm.layers.drop import DropPath, drop_path

__all__ = ["DropPath", "drop_path"]

"""STFV8Config under the name the author's notes import it by."""

from stf.config import STFV8Config

__all__ = ["STFV8Config"]

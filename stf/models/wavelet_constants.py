"""The Symlet-2 filters from PyWavelets: four taps each, orthonormal (Daubechies 1992, "Ten Lectures", chapter 8)."""

from __future__ import annotations

import pywt

WAVELET = "sym2"
_sym2 = pywt.Wavelet(WAVELET)  # pyright: ignore[reportAttributeAccessIssue]  # a compiled name
SYM2_DEC_LO, SYM2_DEC_HI = tuple(_sym2.dec_lo), tuple(_sym2.dec_hi)  # analysis
SYM2_REC_LO, SYM2_REC_HI = tuple(_sym2.rec_lo), tuple(_sym2.rec_hi)  # synthesis: the same, read backwards

"""Small drawn scenes in a data set's own layout, to try everything without a download.

Every class has its own colour, texture and usual place, so that a small network learns them within tens of
iterations; light, noise and the placing of things vary. All is a function of the seed.
"""

from __future__ import annotations

from hrnet.data.synthetic.draw import DATASETS, synthesise

__all__ = ["DATASETS", "synthesise"]

"""Figures of this package beside those of mmsegmentation 1.2.2, measured in turns on one machine.

`python -m hrnet.suite` needs torch, numpy, OpenCV and pyarrow alone; `hrgrid benchmark --suite` adds the platform's
own figures.
"""

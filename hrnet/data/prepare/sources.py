"""Where each published data set is to be had: the official files, their site, and what stands before the download.

None of them may be passed on with this program, so everyone gets them from their owners, under their terms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["SOURCES", "Source", "get_it"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """How to get one published data set."""

    files: tuple[str, ...]
    """Official files that are needed, as they are named."""

    sites: tuple[str, ...]
    """Official addresses that they are downloaded from."""

    access: str
    """What stands before the download: nothing, an account, a form."""

    terms: str
    """Terms of use in a line; the site has them in full."""

    hint: str = ""
    """What else to know about the files."""


_CONTEXT = Source(
    files=("VOCtrainval_03-May-2010.tar", "trainval_merged.json"),
    sites=(
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/",
        "https://codalabuser.blob.core.windows.net/public/trainval_merged.json",
        "https://cs.stanford.edu/~roozbeh/pascal-context/",
    ),
    access="free, no account",
    terms="the images come from Flickr under its terms of use; research",
    hint="ready PNGs in SegmentationClassContext with ImageSets/SegmentationContext serve instead of the JSON file",
)

SOURCES: Mapping[str, Source] = {
    "cityscapes": Source(
        files=("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"),
        sites=("https://www.cityscapes-dataset.com/downloads/",),
        access="a free account, opened by hand",
        terms="non-commercial research and teaching; no redistribution",
        hint="its label files may be labelTrainIds, labelIds or the polygons alone",
    ),
    "ade20k": Source(
        files=("ADEChallengeData2016.zip",),
        sites=("http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",),
        access="free, no account",
        terms="images for non-commercial research and teaching, annotations under a BSD-3 licence",
        hint="the scene parsing release with 150 classes, not the full ADE20K",
    ),
    "voc12aug": Source(
        files=("VOCtrainval_11-May-2012.tar", "benchmark.tgz"),
        sites=(
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
            "http://home.bharathh.info/pubs/codes/SBD/download.html",
        ),
        access="free, no account",
        terms="the images come from Flickr under its terms of use; research",
        hint="a folder SegmentationClassAug of PNGs serves instead of SBD's benchmark.tgz",
    ),
    "pascal-context": _CONTEXT,
    "pascal-context-59": _CONTEXT,
    "loveda": Source(
        files=("Train.zip", "Val.zip"),
        sites=("https://zenodo.org/records/5706578",),
        access="free, no account",
        terms="CC BY-NC-SA 4.0: academic use, no commercial use",
        hint="Test.zip has no labels and is not used",
    ),
    "potsdam": Source(
        files=("2_Ortho_RGB.zip", "5_Labels_all_noBoundary.zip"),
        sites=("https://www.isprs.org/education/benchmarks/UrbanSemLab/2d-sem-label-potsdam.aspx",),
        access="free, through the form of the site",
        terms="research and teaching with acknowledgement of ISPRS; no redistribution",
        hint="the labels without boundaries, not 5_Labels_all; both lie in the site's Potsdam.zip: unpack that first",
    ),
    "vaihingen": Source(
        files=(
            "ISPRS_semantic_labeling_Vaihingen.zip",
            "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE.zip",
        ),
        sites=("https://www.isprs.org/education/benchmarks/UrbanSemLab/2d-sem-label-vaihingen.aspx",),
        access="free, through the form of the site",
        terms="research and teaching with acknowledgement of ISPRS and DGPF; no redistribution",
        hint="the eroded ground truth; both lie in the site's Vaihingen.zip: unpack that first",
    ),
    "isaid": Source(
        files=("train and val images of DOTA-v1.0", "train and val Semantic_masks of iSAID"),
        sites=(
            "https://captain-whu.github.io/DOTA/dataset.html",
            "https://captain-whu.github.io/iSAID/dataset.html",
        ),
        access="free, no account (shared drives)",
        terms="academic use, no commercial use",
        hint="put them below train/ and val/",
    ),
}
"""Published data set to its source."""


def get_it(dataset: str) -> str:
    """Return what to get from where as the end of a sentence; empty for a data set that is not published."""
    source = SOURCES.get(dataset)
    if source is None:
        return ""
    return f"get {' and '.join(source.files)} from {' and '.join(source.sites)} ({source.access}; {source.terms})"

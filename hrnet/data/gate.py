"""The integrity gate: what a data set's card, manifest and sample names already say about mistakes in it.

Pure functions over facts that are there without decoding an image, so that preparing asks them before it publishes
anything, every launch before it asks for a GPU, and `hrgrid data check` before it reads on (hrnet/data/check.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hrnet.data import shares, tiles
from hrnet.data.cards import Card, cards
from hrnet.data.finding import SHOWN, Finding, listed, many
from hrnet.data.prepare.colours import ODD
from hrnet.data.transforms import IGNORE

__all__ = ["MEND", "explain_value", "is_published", "manifest_findings", "name_findings"]

MEND = "mend the label or the card (classes, ignore_index, reduce_zero_label)"
"""What to do about a value of which no cause is known."""

_ENOUGH = 20
"""Images below which a value or class that never occurs may be chance: a finding is then only a note."""

_LABEL_IDS = range(19, 34)
"""Values of Cityscapes' labelIds files that no labelTrainIds file has (cityscapesScripts, labels.py)."""

_CITIES = {
    **dict.fromkeys(
        (
            "aachen", "bochum", "bremen", "cologne", "darmstadt", "dusseldorf", "erfurt", "hamburg", "hanover", "jena",
            "krefeld", "monchengladbach", "strasbourg", "stuttgart", "tubingen", "ulm", "weimar", "zurich",
        ),
        "train",
    ),
    **dict.fromkeys(("frankfurt", "lindau", "munster"), "val"),
    **dict.fromkeys(("berlin", "bielefeld", "bonn", "leverkusen", "mainz", "munich"), "test"),
}  # fmt: skip
"""City to the split that Cityscapes puts it in."""


def is_published(card: Card) -> bool:
    """Whether a card is one of the nine published data sets, of which it is known what they must look like."""
    return card.name in cards()


def manifest_findings(card: Card, manifest: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Return what is wrong or worth knowing, fatal findings first.

    Args:
        card: what the label files mean.
        manifest: of the prepared data set: `splits` with images, class_pixels, ignored_pixels and, if it has it,
            raw_values (value of the label files to number of pixels); `partial`.
        names: split name to the samples' names.

    Returns:
        Findings of the kinds count, swap, leak, tile, values, shift and absent. Counts and tiles are never fatal: a
        partial data set may be wanted, but only whoever prepares it can say so (finding.INCOMPLETE).
    """
    splits = manifest["splits"]
    found = [
        *_counts(card, manifest),
        *name_findings(card, {split: part["images"] for split, part in splits.items()}, names),
        *_reduced_twice(card, splits),
        *_collapsed(card, splits),
        *_odd_colours(card, splits),
        *shares.moved_by_a_class(card, splits),
        *_absent(card, splits),
    ]
    return sorted(found, key=lambda finding: not finding.fatal)


def name_findings(card: Card, images: Mapping[str, int], names: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Return what numbers and names of samples say: swapped splits, one image in both, missing tiles.

    Args:
        card: what the label files mean.
        images: split name to number of images.
        names: split name to the samples' names.
    """
    found = [
        *_swapped_counts(card, images),
        *_strangers(card, names),
        *_in_both(card, names),
        *tiles.missing(card.name, names),
    ]
    return sorted(found, key=lambda finding: not finding.fatal)


def explain_value(card: Card, value: int) -> str:
    """Return the likely cause, as half a sentence, of a label value that is no class of a card."""
    if card.name == "cityscapes" and value in _LABEL_IDS:
        return (
            "19 to 33 are label ids: these are labelIds files under the name of labelTrainIds; give them as "
            "*_gtFine_labelIds.png, or convert them"
        )
    if not card.reduce_zero_label and value == card.num_classes:
        return (
            f"files that hold 0 to {value} usually mean 0 for ignored pixels and 1 to {value} for the classes: "
            f"set reduce_zero_label to true in the card"
        )
    return MEND


def _counts(card: Card, manifest: Mapping[str, Any]) -> Iterator[Finding]:
    for split, numbers in manifest["partial"].items():
        images, complete = numbers["images"], numbers["complete"]
        if images < complete:
            told = f"{complete - images} missing"
        else:
            told = f"{images - complete} too many, so another split or other images are among them"
        message = f"{images} of {complete} images of {card.title}: {told}; results are not comparable"
        yield Finding(kind="count", where=split, message=message, fatal=False)


def _swapped_counts(card: Card, images: Mapping[str, int]) -> Iterator[Finding]:
    train, val = card.train_images, card.val_images
    if None in (train, val) or train == val or (images.get("train"), images.get("val")) != (val, train):
        return
    message = (
        f"train has the {val} images of val, and val the {train} of train: they are swapped, exchange the folders"
    )
    yield Finding(kind="swap", where="train, val", message=message, fatal=True)


def _home(dataset: str, name: str) -> str | None:
    """Return the split that a sample's name says it belongs to, or None if it does not say."""
    base = name.rsplit("/", 1)[-1]
    if dataset == "cityscapes":
        return _CITIES.get(base.split("_", 1)[0])
    if dataset == "ade20k":
        return next((split for split in ("train", "val") if base.startswith(f"ADE_{split}_")), None)
    cut_from = tiles.picture(dataset, name)
    official = tiles.PICTURES.get(dataset, {})
    return next((split for split, pictures in official.items() if cut_from in pictures), None)


def _strangers(card: Card, names: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Samples in a split to which, by their names, they do not belong."""
    for split, members in names.items():
        homes = [(name, home) for name in members if (home := _home(card.name, name)) is not None]
        wrong = [(name, home) for name, home in homes if home != split]
        if not wrong:
            continue
        other = Counter(home for _, home in wrong).most_common(1)[0][0]
        cause = (
            f"the folders of {split} and {other} are swapped"
            if len(wrong) == len(members)
            else f"images of {other} were copied into {split}"
        )
        message = (
            f"{len(wrong)} of {many(len(members), 'image')} belong to {other} by their names, such as "
            f"{listed([name for name, _ in wrong], 2)}: {cause}"
        )
        yield Finding(kind="swap", where=f"{split} {wrong[0][0]}", message=message, fatal=True)


def _in_both(card: Card, names: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Published names are unique, so one in train and val is one image twice; people's own names may just count up."""
    if not is_published(card) or not {"train", "val"} <= set(names):
        return
    train = set(names["train"])
    both = [name for name in names["val"] if name in train]
    pictures = {tiles.picture(card.name, name) for name in names["train"]} - {None}
    cut = sorted({str(each) for name in names["val"] if (each := tiles.picture(card.name, name)) in pictures})
    if both:
        message = (
            f"{many(len(both), 'name')} both in train and in val, such as {listed(both, 2)}: val measures nothing"
        )
        yield Finding(kind="leak", where=f"val {both[0]}", message=message, fatal=True)
    elif cut:
        message = (
            f"tiles of {many(len(cut), 'picture')} both in train and in val ({listed(cut)}): val measures nothing"
        )
        yield Finding(kind="leak", where=f"val {cut[0]}", message=message, fatal=True)


def _reduced_twice(card: Card, splits: Mapping[str, Any]) -> Iterator[Finding]:
    """Files that hold 255, which those of such a data set never do, and not the last class, which they should."""
    found = {}
    for split, part in splits.items() if card.reduce_zero_label else ():
        raw = {int(value): count for value, count in part.get("raw_values", {}).items()}
        if raw.get(IGNORE) and not raw.get(card.num_classes):
            found[split] = raw[IGNORE] / sum(raw.values())
    if found:
        message = (
            f"the label files hold {IGNORE} in {max(found.values()):.2%} of their pixels and never {card.num_classes} "
            f"({card.classes[-1].strip()!r}): they were reduced already, and reduce_zero_label moves every class once "
            f"more; give the original files, or a card with reduce_zero_label: false"
        )
        yield Finding(kind="values", where=", ".join(found), message=message, fatal=is_published(card))


def _collapsed(card: Card, splits: Mapping[str, Any]) -> Iterator[Finding]:
    """The trap of label files written with a 1-bit palette (REFERENCE.md section 8, iSAID)."""
    counted = [sum(column) for column in zip(*(part["class_pixels"] for part in splits.values()), strict=True)]
    if card.name != "isaid" or sum(counted[2:]) or not all(counted[:2]):
        return
    images = sum(part["images"] for part in splits.values())
    message = (
        f"no label of {many(images, 'image')} holds any class but 0 and 1: they were written with a 1-bit palette "
        f"(Pillow 10 and later do so for mode P), which turns every class into 1; prepare from the original files"
    )
    yield Finding(kind="values", where=", ".join(splits), message=message, fatal=images >= _ENOUGH)


def _odd_colours(card: Card, splits: Mapping[str, Any]) -> Iterator[Finding]:
    """Painted colours of no class, which the converter of Potsdam and Vaihingen counts under a value of their own."""
    # In other data sets a card may give that value a meaning.
    for split, part in splits.items() if card.name in tiles.PICTURES else ():
        raw = part.get("raw_values", {})
        if odd := raw.get(str(ODD), 0):
            message = f"{odd} pixels ({odd / sum(raw.values()):.2%}) have colours of no class; they are ignored"
            yield Finding(kind="values", where=split, message=message, fatal=False)


def _absent(card: Card, splits: Mapping[str, Any]) -> Iterator[Finding]:
    for split, part in splits.items():
        absent = [
            label.strip() for label, pixels in zip(card.classes, part["class_pixels"], strict=True) if pixels == 0
        ]
        if not absent:
            continue
        complete = is_published(card) and split == "train" and part["images"] == card.train_images
        message = f"{many(len(absent), 'class')} without a pixel: {listed(absent, SHOWN)}"
        if complete:
            message += f"; every class of {card.title} has some in train, so labels were mapped or copied wrongly"
        yield Finding(kind="absent", where=split, message=message, fatal=complete)

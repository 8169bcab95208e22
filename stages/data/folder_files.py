"""Which images a folder of class folders holds, and what they are known by. No tensor library: planning asks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from stages.data.file_digests import combined_digest, file_digests

FOLDER_SPLITS = ("train", "test")
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Files with another ending are not looked at."""


def list_images(folders: Mapping[str, Path]) -> dict[str, dict[str, list[str]]]:
    """Split -> class -> images as paths in the split's folder; classes and images in the order of their names.

    Raises:
        ValueError: a folder is missing or has no classes, a class has no images, or the splits know different classes.
    """
    found = {split: _images_by_class(folder, folders) for split, folder in folders.items()}
    (first, classes), *others = ((split, set(images)) for split, images in found.items())
    for split, other in others:
        if other != classes:
            differences = [
                f"only {name} has {_some(only)}" for name, only in ((first, classes - other), (split, other - classes)) if only
            ]
            raise ValueError(
                f"{folders[first]} and {folders[split]} have different classes: {'; '.join(differences)}. Every class needs a "
                "folder in both"
            )
    return found


def folder_digest(folders: Mapping[str, Path]) -> str:
    """Digest of splits, class folders, names and contents; where the folders are and what they are called has no part in it."""
    found: dict[str, tuple[int, str]] = {}
    for split, images in list_images(folders).items():
        names = [name for listed in images.values() for name in listed]
        found |= {f"{split}/{name}": value for name, value in file_digests(folders[split], names).items()}
    return combined_digest(found)


def _images_by_class(folder: Path, folders: Mapping[str, Path]) -> dict[str, list[str]]:
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}. {_what_is_there(folder.parent, folders)}")
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise ValueError(f"{folder} has no class folders; expected {folder}/CLASS/*.jpg, one folder for each class")
    found = {name: _images_below(folder, name) for name in classes}
    empty = {name for name, images in found.items() if not images}
    if empty:
        raise ValueError(
            f"{folder}: no images for {_some(empty)}; images end in {', '.join(sorted(SUFFIXES))}. Add some or remove it"
        )
    return found


def _images_below(folder: Path, name: str) -> list[str]:
    found: list[str] = []
    begin = len(str(folder)) + 1
    for place, folders, files in os.walk(folder / name, followlinks=True):
        folders[:] = [inner for inner in folders if not inner.startswith(".")]
        found += [
            f"{place}/{file}"[begin:]
            for file in files
            if not file.startswith(".") and os.path.splitext(file)[1].lower() in SUFFIXES  # noqa: PTH122 - a million times
        ]
    return sorted(found)


def _what_is_there(parent: Path, folders: Mapping[str, Path]) -> str:
    if not parent.is_dir():
        return f"There is no {parent} either: check `path`; a relative one is looked up from where the command runs"
    there = sorted(entry.name for entry in os.scandir(parent) if entry.is_dir())
    if not there:
        return f"{parent} has no folders at all; expected {' and '.join(path.name for path in folders.values())}"
    return f"{parent} has {_some(set(there))}; say which with `train` and `test` (test: null if there are no test images)"


def _some(names: set[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")

"""Images in a folder of class folders. Knows files; decodes nothing."""

from __future__ import annotations

from pathlib import Path

import torch

from stages.data.base import Dataset
from stages.data.folder_files import list_images
from stages.data.image_settings import FolderData, ImageData
from stages.data.image_transforms import input_spec_of, make_decoder
from stages.data.images import FileImages, Images, ImageSplit


def load_folder(source: FolderData) -> Dataset:
    """Both splits; where there is no test folder, `test` is empty and only validation can be measured on.

    Raises:
        ValueError: a folder is missing, a class is empty, or the splits know different classes.
    """
    folders = source.folders()
    found = list_images(folders)
    class_names = tuple(found["train"])
    files = {split: _files(folders[split], images) for split, images in found.items()}
    return image_dataset(source, class_names=class_names, train=files["train"], test=files.get("test"))


def image_dataset(source: ImageData, *, class_names: tuple[str, ...], train: Images, test: Images | None) -> Dataset:
    """A data set of encoded images; an absent test split is an empty one, for which validation images are to stand."""
    decoder = make_decoder(source, num_classes=len(class_names))
    test = train.part(torch.empty(0, dtype=torch.int64)) if test is None else test
    return Dataset(
        train=ImageSplit(
            images=train,
            decoder=decoder,
            augments=source.augment is not None,
            repeats=1 if source.augment is None else source.augment.repeats,
            num_workers=source.num_workers,
        ),
        test=ImageSplit(images=test, decoder=decoder, num_workers=source.num_workers),
        input_spec=input_spec_of(source),
        class_names=class_names,
    )


def _files(root: Path, images: dict[str, list[str]]) -> FileImages:
    names = [name for listed in images.values() for name in listed]
    classes = [number for number, listed in enumerate(images.values()) for _ in listed]
    return FileImages(root=root, names=names, classes=torch.tensor(classes, dtype=torch.int64))

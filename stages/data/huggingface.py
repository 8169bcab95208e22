"""Images of a Hugging Face data set, from the hub at one commit or from a folder that `save_to_disk` wrote."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stages.data.base import Dataset
from stages.data.folder import image_dataset
from stages.data.image_settings import HuggingFaceData
from stages.data.images import EncodedImage, full_shuffle


def load_hugging_face(source: HuggingFaceData) -> Dataset:
    """Both splits, read from disk as their images are asked for.

    Raises:
        ValueError: the data set, a split or a column is not there, or the label's column has no class names.
        RuntimeError: the package `datasets` is not installed, or the hub cannot be reached.
    """
    try:
        import datasets
    except ImportError as error:
        raise RuntimeError("data: huggingface needs the package datasets; pip install 'orchestrator[huggingface]'") from error
    if source.path is not None:
        try:
            found: Any = datasets.load_from_disk(source.path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{source.path} is no folder that save_to_disk wrote: {error}") from error
    else:
        found = _from_hub(datasets, source)
    names = (source.train, source.test) if source.evaluate_on == "test" else (source.train,)
    missing = [name for name in names if not isinstance(found, dict) or name not in found]
    if missing:
        there = ", ".join(found) if isinstance(found, dict) else "no splits: it is a single one"
        raise ValueError(f"no split {', '.join(missing)}; it has {there}. Say which with `train` and `test`")
    train = _rows(found, source, split=source.train)
    class_names = tuple(found[source.train].features[source.label_column].names)
    test = _rows(found, source, split=source.test) if source.evaluate_on == "test" else None
    if test is not None and tuple(found[source.test].features[source.label_column].names) != class_names:
        raise ValueError(f"the splits {source.train} and {source.test} have different classes")
    return image_dataset(source, class_names=class_names, train=train, test=test)


def _from_hub(datasets: Any, source: HuggingFaceData) -> Any:
    try:
        return datasets.load_dataset(source.repo, source.config, revision=source.revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise RuntimeError(
            f"{source.repo} at {source.revision} cannot be had ({type(error).__name__}: {' '.join(str(error).split())}). Check "
            "the name and the network, or fill HF_HOME on a machine that has one, or save_to_disk there and set path"
        ) from error


@dataclass(frozen=True, kw_only=True, eq=False)
class RowImages:
    """Images in the rows of a table that lies on disk."""

    table: Any
    split: str
    image_column: str
    label_column: str

    def __len__(self) -> int:
        return len(self.table)

    def labels(self) -> Tensor:
        """See `Images.labels`."""
        labels = torch.tensor(self.table.with_format("numpy")[self.label_column][:], dtype=torch.int64)
        for index in ((labels < 0) | (labels >= self._num_classes)).nonzero()[:1].flatten().tolist():
            self._label(index, self.table[index][self.label_column])
        return labels

    def order(self, shuffle_seed: int | None) -> Tensor:
        """See `Images.order`."""
        return full_shuffle(len(self), shuffle_seed)

    def read(self, order: Tensor) -> Generator[EncodedImage, None, None]:
        """See `Images.read`.

        Raises:
            ValueError: a row has a file elsewhere in place of an image, or a label of no class.
        """
        for index in order.tolist():
            row = self.table[index]
            content = row[self.image_column]["bytes"]
            if content is None:
                raise ValueError(f"row {index} names a file in place of an image; save the data set with its images embedded")
            yield EncodedImage(content, self._label(index, row[self.label_column]), f"row {index}")

    def part(self, index: Tensor) -> RowImages:
        """See `Images.part`."""
        return replace(self, table=self.table.select(index.tolist()))

    @property
    def _num_classes(self) -> int:
        return len(self.table.features[self.label_column].names)

    def _label(self, index: int, label: int | None) -> int:
        if label is None or not 0 <= label < self._num_classes:
            raise ValueError(
                f"row {index} of the split {self.split} has the label {label}; there are {self._num_classes} classes, so "
                f"labels are 0 to {self._num_classes - 1}. Splits without labels often have -1: say which splits to use with "
                "`train` and `test`"
            )
        return label


def _rows(found: Any, source: HuggingFaceData, *, split: str) -> RowImages:
    import datasets

    table = found[split]
    kinds = {source.image_column: datasets.Image, source.label_column: datasets.ClassLabel}
    for column, kind in kinds.items():
        if not isinstance(table.features.get(column), kind):
            listed = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in table.features.items())
            raise ValueError(  # noqa: TRY004 - the settings are wrong, not a type
                f"column {column} is no {kind.__name__}; there are {listed}. Say which with image_column, label_column"
            )
    plain = table.cast_column(source.image_column, datasets.Image(decode=False))
    return RowImages(table=plain, split=split, image_column=source.image_column, label_column=source.label_column)

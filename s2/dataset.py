"""The encoded dataset, which training reads: a folder of plain ``.npy`` files (ragged: values, offsets) and metadata.

Nothing in it is pickled, and :func:`load` maps the files into memory instead of reading them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError

from rna_s2.options.base import Options
from rna_s2.options.errors import UserError
from rna_s2.options.files import atomic_path
from rna_s2.rna.boxes import BOX_TYPES, ragged_take
from rna_s2.s2.feature_groups import KINDS, Kind

FORMAT_VERSION: Literal[1] = 1

MOST_CHANNELS = 8
"""Channels of a base, 0 or 1 each, at most: a byte tells a base (:func:`rna_s2.s2.prefix_lstm.prefix_tree`)."""

META_FILE = "meta.json"

ARRAY_DTYPES: Mapping[str, type] = MappingProxyType({
    "offsets": np.int64, "features": np.float32, "box_type": np.int8, "labels": np.uint8,
    "source_row": np.int64, "group": np.int64, "seq_length": np.int32, "n_target": np.int32,
})
"""The arrays of every dataset, one ``NAME.npy`` each, and their types."""


class DatasetMeta(Options):
    """What an encoded dataset holds and where it came from."""

    format_version: Literal[1] = Field(FORMAT_VERSION, description="version of this format")
    kind: Kind = Field(description="what is encoded per box")
    feature_names: tuple[str, ...] = Field(description="names of the columns of `features`, in order")
    sequence_channels: dict[str, int] = Field(
        default_factory=dict, description="channels of the bases of each box type; empty for kinds without bases"
    )
    source: str = Field(description="path of the table it was made from, as given")
    source_digest: str = Field(description="SHA-256 of that file; empty for a table in memory")
    labelled: bool = Field(True, description="whether the table had target structures; without them all labels are 0")
    rows_read: int = Field(ge=0, description="rows of the table")
    rows_full_sensitivity: int = Field(ge=0, description="rows whose target boxes are all among the proposals")
    rows_without_boxes: int = Field(0, ge=0, description="rows left out because nothing is proposed for them")
    rows_kept: int = Field(ge=0, description="rows of this dataset")
    boxes: int = Field(ge=0, description="boxes of this dataset")
    positives: int = Field(ge=0, description="boxes that belong to the target structure (label 1)")
    boxes_per_type: dict[str, int] = Field(description="boxes of each type")
    positives_per_type: dict[str, int] = Field(description="boxes with label 1 of each type")
    seed: int = Field(0, description="seed of the label permutation of shuffle_label")
    keep_partial: bool = Field(False, description="whether rows below 100 % box sensitivity were kept")


@dataclass(frozen=True)
class EncodedDataset:
    """Rows of boxes, encoded. Boxes of a row stand together, in the order stems, iloops, hloops.

    Attributes:
        meta: kind, names, counts, origin.
        offsets: ``(rows + 1,)`` int64; the boxes of row ``r`` are ``offsets[r]:offsets[r + 1]``.
        features: ``(boxes, len(meta.feature_names))`` float32.
        box_type: ``(boxes,)`` int8 codes into :data:`rna_s2.rna.boxes.BOX_TYPES`.
        labels: ``(boxes,)`` uint8; 1 where the box belongs to the target structure.
        source_row: ``(rows,)`` int64; position of each row in the table it was made from.
        group: ``(rows,)`` int64; rows that may overlap share a number (:func:`rna_s2.s2.groups.row_groups`).
        seq_length: ``(rows,)`` int32; length of each sequence in bases.
        n_target: ``(rows,)`` int32; boxes of each target structure.
        bases: ``(sum of seq_length,)`` uint8 base codes of the sequences, one after the other; empty for kinds without them.
        seq_values: by type name, ``(positions, channels)`` uint8, 0 or 1: bases of all boxes of the type, one after the other.
        seq_offsets: by type name, ``(boxes of the type + 1,)`` int64 into ``seq_values``; boxes in dataset order.

    Raises:
        ValueError: the arrays do not fit each other or the metadata.
    """

    meta: DatasetMeta
    offsets: np.ndarray
    features: np.ndarray
    box_type: np.ndarray
    labels: np.ndarray
    source_row: np.ndarray
    group: np.ndarray
    seq_length: np.ndarray
    n_target: np.ndarray
    bases: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    seq_values: Mapping[str, np.ndarray] = field(default_factory=dict)
    seq_offsets: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows, boxes, width = self.meta.rows_kept, self.meta.boxes, len(self.meta.feature_names)
        shapes = {
            "offsets": (rows + 1,), "features": (boxes, width), "box_type": (boxes,), "labels": (boxes,),
            "source_row": (rows,), "group": (rows,), "seq_length": (rows,), "n_target": (rows,),
        }
        for name, shape in shapes.items():
            _check_array(name, getattr(self, name), shape, ARRAY_DTYPES[name])
        _check_offsets("offsets", self.offsets, boxes)
        bases = int(self.seq_length.sum()) if self.holds_sequences else 0
        _check_array("bases", self.bases, (bases,), np.uint8)
        if boxes and not (0 <= int(self.box_type.min()) and int(self.box_type.max()) < len(BOX_TYPES)):
            raise ValueError("box_type holds an unknown code")
        per_type = np.bincount(self.box_type, minlength=len(BOX_TYPES))
        counted = dict(zip(BOX_TYPES, per_type.tolist(), strict=True))
        if counted != dict(self.meta.boxes_per_type):
            raise ValueError(f"box_type holds {counted}, the metadata say {self.meta.boxes_per_type}")
        if int(np.count_nonzero(self.labels)) != self.meta.positives or (boxes and int(self.labels.max()) > 1):
            raise ValueError(f"labels must be 0 or 1 with {self.meta.positives} ones, as the metadata say")
        if set(self.seq_values) != set(self.meta.sequence_channels) or set(self.seq_offsets) != set(self.seq_values):
            raise ValueError("the sequences do not fit sequence_channels of the metadata")
        for name, channels in self.meta.sequence_channels.items():
            if name not in counted:
                raise ValueError(f"unknown box type {name!r} in sequence_channels")
            _check_array(f"seq_offsets_{name}", self.seq_offsets[name], (counted[name] + 1,), np.int64)
            if channels > MOST_CHANNELS:
                raise ValueError(f"{name}: {channels} channels of a base, more than {MOST_CHANNELS}")
            positions = len(self.seq_values[name])
            _check_array(f"seq_values_{name}", self.seq_values[name], (positions, channels), np.uint8)
            _check_offsets(f"seq_offsets_{name}", self.seq_offsets[name], positions)

    def __len__(self) -> int:
        return self.meta.rows_kept

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.meta.rows_kept

    @property
    def holds_sequences(self) -> bool:
        """Whether it holds the bases of whole sequences."""
        return KINDS[self.meta.kind].bases == "sequences"

    @cached_property
    def base_offsets(self) -> np.ndarray:
        """``(rows + 1,)`` int64 into :attr:`bases`: where each sequence begins and ends."""
        return np.concatenate([[0], np.cumsum(self.seq_length, dtype=np.int64)])

    @cached_property
    def entry_of_box(self) -> np.ndarray:
        """``(boxes,)`` int64: position of each box among the boxes of its type: its entry in ``seq_offsets``."""
        entry = np.empty(len(self.box_type), np.int64)
        for code in range(len(BOX_TYPES)):
            of_type = np.flatnonzero(self.box_type == code)
            entry[of_type] = np.arange(len(of_type))
        return entry

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the arrays and the metadata, without the path of the source: equal content, equal digest."""
        whole = hashlib.sha256(json.dumps(self.meta.model_dump(exclude={"source"}), sort_keys=True).encode())
        for name, array in self.arrays().items():
            whole.update(f"{name}\0{array.dtype.str}\0{array.shape}\n".encode())
            whole.update(np.ascontiguousarray(array).data)
        return whole.hexdigest()

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array under the name of its file."""
        return (
            {name: getattr(self, name) for name in ARRAY_DTYPES}
            | ({"bases": self.bases} if self.holds_sequences else {})
            | {f"seq_values_{name}": values for name, values in self.seq_values.items()}
            | {f"seq_offsets_{name}": offsets for name, offsets in self.seq_offsets.items()}
        )

    def take_rows(self, rows: np.ndarray) -> EncodedDataset:
        """The dataset with only the given rows (``(k,)`` int), in the order given, its counts adapted."""
        rows = np.asarray(rows, dtype=np.int64)
        index, offsets = ragged_take(self.offsets, rows)
        box_type, labels = np.asarray(self.box_type[index]), np.asarray(self.labels[index])
        seq_values, seq_offsets = {}, {}
        for name, values in self.seq_values.items():
            entries = self.entry_of_box[index[box_type == BOX_TYPES.index(name)]]
            positions, seq_offsets[name] = ragged_take(self.seq_offsets[name], entries)
            seq_values[name] = values[positions]
        return EncodedDataset(
            meta=self.meta.model_copy(update=counts_of(box_type, labels, len(rows))),
            offsets=offsets, features=self.features[index], box_type=box_type, labels=labels,
            **{name: getattr(self, name)[rows] for name in ("source_row", "group", "seq_length", "n_target")},
            bases=self.bases[ragged_take(self.base_offsets, rows)[0]] if len(self.bases) else self.bases,
            seq_values=seq_values, seq_offsets=seq_offsets,
        )

    def save(self, path: str | Path) -> None:
        """Write the dataset as a folder, whole or not at all; a dataset that lies there is replaced.

        Raises:
            UserError: the folder cannot be written, or something that is no dataset lies there.
        """
        path = check_dataset_path(path)
        with atomic_path(path) as folder:
            folder.mkdir()
            for name, array in self.arrays().items():
                np.save(folder / f"{name}.npy", array, allow_pickle=False)
            (folder / META_FILE).write_text(self.meta.model_dump_json(indent=2) + "\n", encoding="utf-8")


def check_dataset_path(path: str | Path) -> Path:
    """A path to which a dataset may be saved: nothing lies there, or an empty folder, or a dataset to be replaced.

    Raises:
        UserError: something else lies there.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and ((path / META_FILE).is_file() or not any(path.iterdir()))):
        raise UserError(f"{path}: is there already and is no encoded dataset; choose another output path")
    return path


def counts_of(box_type: np.ndarray, labels: np.ndarray, rows: int) -> dict[str, object]:
    """The counts of :class:`DatasetMeta` that follow from the arrays."""
    boxes = np.bincount(box_type, minlength=len(BOX_TYPES)).tolist()
    positives = np.bincount(box_type[labels == 1], minlength=len(BOX_TYPES)).tolist()
    return {
        "rows_kept": rows, "boxes": sum(boxes), "positives": sum(positives),
        "boxes_per_type": dict(zip(BOX_TYPES, boxes, strict=True)),
        "positives_per_type": dict(zip(BOX_TYPES, positives, strict=True)),
    }


def load_meta(path: str | Path) -> DatasetMeta:
    """The metadata of an encoded dataset.

    Raises:
        UserError: the folder is no encoded dataset, or one of another format version.
    """
    file = Path(path) / META_FILE
    try:
        return DatasetMeta.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path}: is no encoded dataset ({META_FILE}: {error.strerror}); make one with the entry point featurize"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or META_FILE
        raise UserError(f"{file}: {where}: {first['msg']}; featurize the table again") from error


def load(path: str | Path) -> EncodedDataset:
    """An encoded dataset, its arrays mapped into memory read-only.

    Raises:
        UserError: the folder is no encoded dataset, a file is missing or damaged, or a file does not fit the metadata.
    """
    path = Path(path)
    meta = load_meta(path)

    def mapped(name: str) -> np.ndarray:
        file = path / f"{name}.npy"
        try:
            return np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            reason = getattr(error, "strerror", None) or error
        raise UserError(f"{file}: cannot be read ({reason}); featurize the table again")

    arrays = {name: mapped(name) for name in ARRAY_DTYPES}
    if KINDS[meta.kind].bases == "sequences":
        arrays["bases"] = mapped("bases")
    seq_values = {name: mapped(f"seq_values_{name}") for name in meta.sequence_channels}
    seq_offsets = {name: mapped(f"seq_offsets_{name}") for name in meta.sequence_channels}
    try:
        return EncodedDataset(meta=meta, **arrays, seq_values=seq_values, seq_offsets=seq_offsets)
    except ValueError as error:
        raise UserError(f"{path}: {error}; featurize the table again") from error


def _check_array(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"{name} should be {np.dtype(dtype).name} of shape {shape}, not {array.dtype} of shape {array.shape}"
        )


def _check_offsets(name: str, offsets: np.ndarray, total: int) -> None:
    if offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 0).any():
        raise ValueError(f"{name} must rise from 0 to {total}")

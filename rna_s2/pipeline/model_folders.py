"""Where trained networks lie: in ``data/``, in a folder of the user's, or in the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rna_s2.options.errors import UserError
from rna_s2.options.places import in_project
from rna_s2.s1.model import load_network
from rna_s2.s1.network import ProposalNetwork

TRAINED_S1 = in_project("data/s1_network")
"""Stage 1 as it was trained."""
SHIPPED_S1 = in_project("data/s1_compact")
"""Stage 1 where none is named: :data:`TRAINED_S1`, made smaller."""
SHIPPED_S2 = in_project("data/s2_model")
"""Stage 2 where none is named."""

REGISTRY = "models:/"
"""What the address of a registered model begins with."""

Loaded = TypeVar("Loaded")


@contextmanager
def model_folder(where: str) -> Iterator[Path]:
    """The folder of a model, for the length of a block: the folder itself, or a copy of what is registered.

    Args:
        where: a folder, or ``models:/NAME`` (its champion), ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``.

    Raises:
        UserError: there is no such folder, or no such model is registered.
    """
    if not where.startswith(REGISTRY):
        if not Path(where).is_dir():
            raise UserError(f"{where}: no such folder; give the folder of a saved model, or {REGISTRY}NAME of a registered one")
        yield Path(where)
        return
    from rna_s2.tracking.models import registered_folder  # here: MLflow takes seconds to import, and a folder needs none of it

    with registered_folder(where) as folder:
        yield folder


def open_model(where: str, load: Callable[[str | Path], Loaded]) -> Loaded:
    """What ``load`` reads from the folder of a model; ``where`` as for :func:`model_folder`.

    Raises:
        UserError: the model is not there or cannot be read.
    """
    with model_folder(where) as folder:
        return load(folder)


def open_network(where: str) -> ProposalNetwork:
    """A network of stage 1; ``where`` as for :func:`model_folder`.

    Raises:
        UserError: the network is not there or cannot be read.
    """
    return open_model(where, load_network)[0]

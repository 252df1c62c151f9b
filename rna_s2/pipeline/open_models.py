"""Where trained models lie (in ``data/``, a folder of the user's, or the registry), and which a prediction uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, model_validator

from rna_s2.fitting.devices import chosen_device, warn_of_slow
from rna_s2.options.base import Options, validate
from rna_s2.options.command_line import shown
from rna_s2.options.errors import UserError
from rna_s2.options.places import ProjectPath, in_project
from rna_s2.pipeline.structure_prediction import Models, PipelineOptions, load_pipeline
from rna_s2.s1.model import load_network
from rna_s2.s1.network import ProposalNetwork
from rna_s2.s2.scorer import Scorer

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
    """A network of stage 1; ``where`` and errors as for :func:`open_model`."""
    return open_model(where, load_network)[0]


class ModelOptions(Options):
    """Two networks, or an end-to-end model that has both and their options."""

    model: str = Field("", description="end-to-end model instead of s1_model and s2_model: folder or models:/NAME")
    s1_model: ProjectPath = Field(
        SHIPPED_S1, min_length=1, description="stage 1: folder, or models:/NAME (its champion), /VERSION, @ALIAS"
    )
    s2_model: ProjectPath = Field(SHIPPED_S2, min_length=1, description="stage 2, likewise")
    chain: PipelineOptions = Field(
        PipelineOptions(), description="how sequences become structures", json_schema_extra=shown(but=("k", "chunk"))
    )

    @model_validator(mode="after")
    def _one_or_two(self) -> ModelOptions:
        both = sorted({"s1_model", "s2_model"} & self.model_fields_set)
        if self.model and both:
            raise ValueError(f"model has both stages in it; give either model or {' and '.join(both)}")
        return self


def open_models(options: ModelOptions) -> tuple[Models, PipelineOptions]:
    """The networks, and the options in force: those of an end-to-end model, overlaid with those that were given.

    Raises:
        UserError: a model is not there or cannot be read.
    """
    if options.model:
        models, base = open_model(options.model, load_pipeline)
    else:
        base = PipelineOptions()
        models = Models(open_network(options.s1_model), open_model(options.s2_model, Scorer.load))
    chain = overlaid(base, options.chain)
    warn_of_slow(chain.inference.precision, chosen_device(chain.inference.device))
    return models, chain


def overlaid(base: PipelineOptions, given: PipelineOptions) -> PipelineOptions:
    """``base`` with every option that was set in ``given``, at any depth.

    Raises:
        UserError: the two do not fit together.
    """
    return validate(PipelineOptions, _overlaid(base, given), "the model's options and the given ones")


def _overlaid(base: Options, given: Options) -> dict[str, Any]:
    values = {name: getattr(base, name) for name in type(base).model_fields}
    for name in given.model_fields_set:
        value = getattr(given, name)
        values[name] = _overlaid(values[name], value) if isinstance(value, Options) else value
    return values

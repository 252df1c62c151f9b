"""Which models a prediction uses: shipped with the repository, in a local folder, or registered."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from rna_s2.fitting.devices import chosen_device, warn_of_slow
from rna_s2.options.base import Options, validate
from rna_s2.options.command_line import shown
from rna_s2.options.places import ProjectPath
from rna_s2.pipeline.model_folders import SHIPPED_S1, SHIPPED_S2, open_model
from rna_s2.pipeline.structure_prediction import Models, PipelineOptions, load_pipeline
from rna_s2.s1.model import load_network
from rna_s2.s2.scorer import Scorer


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
        models = Models(
            open_model(options.s1_model, lambda folder: load_network(folder)[0]),
            open_model(options.s2_model, Scorer.load),
        )
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

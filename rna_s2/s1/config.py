"""Configuration of stage 1: its transcripts and segments, its network, its data, its training."""

from __future__ import annotations

from pydantic import Field, PositiveInt, field_validator, model_validator

from rna_s2.fitting.devices import PRECISION_HELP, Precision
from rna_s2.fitting.schedules import SCHEDULE_HELP, ScheduleName
from rna_s2.options.base import Options
from rna_s2.options.command_line import called, shown
from rna_s2.s1.selection import SelectionOptions


class SyntheticTranscripts(Options):
    """Random transcripts: how many, and of what composition (:mod:`rna_s2.s1.synthetic`)."""

    n_transcripts: int = Field(1000, ge=1, description="number of sequences")
    length: int = Field(2000, ge=1, description="bases of each sequence")
    gc_mean: float = Field(0.5, gt=0, lt=1, description="mean share of G + C")
    gc_sd: float = Field(0.1, gt=0, lt=0.5, description="standard deviation of the share of G + C between regions")
    seed: int = Field(0, ge=0, description="seed of the random generator")

    @model_validator(mode="after")
    def _gc_spread_fits(self) -> SyntheticTranscripts:
        if self.gc_sd**2 >= self.gc_mean * (1 - self.gc_mean):
            raise ValueError(f"gc_sd {self.gc_sd} is too large for gc_mean {self.gc_mean}; choose a smaller one")
        return self


class SegmentRule(Options):
    """How transcripts are cut into segments, and which of these are kept once they are folded."""

    min_len: int = Field(20, ge=1, description="shortest segment, in bases")
    max_len: int = Field(200, ge=1, description="longest segment, in bases")
    min_step: int = Field(20, ge=1, description="least number of bases between the starts of segments")
    max_step: int = Field(200, ge=1, description="largest number of bases between the starts of segments")
    max_per_transcript: int = Field(0, ge=0, description="most segments cut from one transcript; 0: no limit")
    min_mfe_freq: float = Field(0.02, ge=0, le=1, description="least frequency of the MFE structure in its ensemble")
    seed: int = Field(0, ge=0, description="seed of the cutting")

    @model_validator(mode="after")
    def _ranges_are_not_empty(self) -> SegmentRule:
        if self.min_len > self.max_len:
            raise ValueError(f"min_len {self.min_len} is above max_len {self.max_len}")
        if self.min_step > self.max_step:
            raise ValueError(f"min_step {self.min_step} is above max_step {self.max_step}")
        return self


class NetworkConfig(Options):
    """Size of the fully convolutional network."""

    channels: int = Field(64, ge=1, description="channels of the residual stream")
    hidden: PositiveInt | tuple[PositiveInt, ...] = Field(
        64, description="channels of the 3x3 convolution inside a block: of every block, or of each"
    )
    dilations: tuple[int, ...] = Field(
        (1, 2, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8), min_length=1, description="dilation of each residual block's convolution"
    )
    first_kernel: int = Field(5, ge=1, description="side of the first convolution, odd")
    head_hidden: int = Field(96, ge=1, description="channels of the hidden layer before the outputs")

    @field_validator("hidden", mode="before")
    @classmethod
    def _hidden_are_positive(cls, value: object) -> object:
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 1 for number in numbers):
            raise ValueError("must be a number of 1 or more, or a list of such numbers, one for each dilation")
        return value

    @field_validator("dilations")
    @classmethod
    def _dilations_are_positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 1:
            raise ValueError(f"dilations must be 1 or more, got {list(value)}")
        return value

    @field_validator("first_kernel")
    @classmethod
    def _kernel_is_odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"must be odd, e.g. {value + 1}")
        return value

    @model_validator(mode="after")
    def _hidden_fits_blocks(self) -> NetworkConfig:
        if len(self.hidden_of_blocks) != len(self.dilations):
            raise ValueError(
                f"hidden has {len(self.hidden_of_blocks)} numbers and dilations {len(self.dilations)}; give one number, or one "
                "for each dilation"
            )
        return self

    @property
    def hidden_of_blocks(self) -> tuple[int, ...]:
        """``hidden`` of each block."""
        return (self.hidden,) * len(self.dilations) if isinstance(self.hidden, int) else self.hidden


class DataConfig(Options):
    """Which rows of the table train the network and which validate it."""

    max_len: int = Field(160, ge=2, description="longer sequences are left out, in bases")
    val_share: float = Field(0.05, gt=0, lt=1, description="share of the rows that validate; whole transcripts")
    max_val_rows: int = Field(400, ge=1, description="rows that validate at most")


class TrainingConfig(Options):
    """How the network is trained."""

    epoch: int = Field(
        20, ge=1, description="epochs: parts of the training after which it is validated and saved",
        json_schema_extra=called("epochs"),
    )
    batches_per_epoch: int = Field(500, ge=0, description="batches in an epoch; 0: about one pass over the rows")
    batch_pixels: int = Field(16384, ge=1, description="map cells in a batch: rows times the square of the longest")
    short_epochs: int = Field(0, ge=0, description="epochs at the beginning that see only short sequences")
    short_len: int = Field(64, ge=2, description="longest of the short sequences, in bases")
    muon_lr: float = Field(0.02, gt=0, description="largest learning rate of Muon, for the blocks' convolutions")
    lr: float = Field(2e-3, gt=0, description="largest learning rate of AdamW, for the other weights")
    lr_schedule: ScheduleName = Field("cosine_by_progress", description=SCHEDULE_HELP)
    warmup_share: float = Field(0.02, ge=0, lt=1, description="share of the training in which the rates rise")
    betas: tuple[float, float] = Field((0.9, 0.98), description="AdamW's decay rates")
    muon_weight_decay: float = Field(0.01, ge=0, description="Muon's weight decay")
    weight_decay: float = Field(1e-4, ge=0, description="AdamW's weight decay")
    scalar_weight: float = Field(0.2, ge=0, description="weight of the loss of the size as a number beside the others")
    precision: Precision = Field("auto", description=PRECISION_HELP)


class S1Config(Options):
    """Stage 1: network, data, training, and the selection at which it is validated."""

    network: NetworkConfig = Field(default_factory=NetworkConfig, description="size of the network")
    data: DataConfig = Field(default_factory=DataConfig, description="which rows train")
    training: TrainingConfig = Field(
        default_factory=TrainingConfig, description="how it is trained", json_schema_extra=shown("epochs", "precision")
    )
    selection: SelectionOptions = Field(
        default_factory=SelectionOptions, description="which proposals count for the sensitivity"
    )

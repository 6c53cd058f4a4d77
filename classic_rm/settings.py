"""Training settings as dataclasses, checked when they are created. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from judges.errors import CannotRun


@dataclass(frozen=True)
class ModelSettings:
    """The model that training starts from.

    `base` is a folder, a hub name or an `embedded:` name. `dropout` is applied before the reward head. `heads` is the
    number of rewards that one backbone computes. `layers` keeps only the first layers of a decoder. `frozen` freezes
    the embeddings and that many first layers. `lora` is the rank of the adapters; 0 trains all weights.
    """

    base: str = "embedded:minilm"
    dropout: float = 0.1
    heads: int = 1
    layers: int | None = None
    frozen: int = 0
    lora: int = 0


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of reward model training.

    `centring` and `contrast` weigh their terms of the loss, `smoothing` is the probability that a label is wrong (see
    `losses`). `validation_share` of the prompts are held out; the held-out loss is measured `evaluations` times an
    epoch, and training stops early after `patience` evaluations without an improvement. `log_to` names transformers'
    reporters (tensorboard, wandb).
    """

    start: ModelSettings = ModelSettings()
    epochs: float = 1
    learning_rate: float = 1e-5
    batch_size: int = 16
    accumulation: int = 1
    checkpointing: bool = False
    max_length: int = 512
    weight_decay: float = 0.01
    warmup_share: float = 0.1
    centring: float = 0.01
    smoothing: float = 0.0
    contrast: float = 0.0
    uncertainty: bool = False
    foreign_rejected: bool = False
    share_prompts: bool = True
    validation_share: float = 0.1
    patience: int = 3
    evaluations: int = 4
    seed: int = 0
    log_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.contrast and self.batch_size < 2:
            raise CannotRun("the contrastive term needs two pairs or more in a batch")
        if self.uncertainty and self.start.heads < 2:
            raise CannotRun(
                "uncertainty weights need two heads or more: they are computed from the disagreement of the heads"
            )
        if not 0 <= self.smoothing < 0.5:
            raise CannotRun(f"smoothing must be from 0 to below 0.5, not {self.smoothing}")
        if not 0 < self.validation_share < 1:
            raise CannotRun(f"the validation share must be between 0 and 1, not {self.validation_share}")


@dataclass(frozen=True)
class CritiqueSettings:
    """Settings of critique-out-loud training (Ankner et al. 2024, arXiv 2408.11791).

    `critique_weight` is λ in L = L_BT + λ·L_LM; the paper uses 5/4. The model's own critiques have at most
    `critique_tokens` tokens and are sampled at `temperature`, which is also the one used when several critiques are
    averaged. `training` applies to both trained stages.
    """

    training: TrainingSettings
    critique_weight: float = 1.25
    critique_tokens: int = 256
    temperature: float = 0.5

    def __post_init__(self) -> None:
        if self.critique_weight < 0 or self.temperature < 0 or self.critique_tokens < 1:
            raise CannotRun("the critiques' weight and temperature must be at least 0, their tokens at least 1")

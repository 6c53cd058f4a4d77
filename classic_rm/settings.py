"""What a training is told: values, checked, without anything heavy to import."""

from __future__ import annotations

from dataclasses import dataclass

from judges.errors import CannotRun


@dataclass(frozen=True)
class Start:
    """How training begins. `heads` rewards are read from one backbone; `layers` keeps only the first ones of a
    decoder; `frozen` keeps the embeddings and the first layers as they are; `lora` is the adapters' rank, 0
    trains every weight."""

    base: str = "embedded:minilm"
    dropout: float = 0.1
    heads: int = 1
    layers: int | None = None
    frozen: int = 0
    lora: int = 0


@dataclass(frozen=True)
class TrainingSettings:
    """The defaults are those of the field; `centring` and `contrast` are weights of their terms, `smoothing` the
    share of labels taken to be wrong, `evaluations` how often an epoch the held-out loss is measured,
    `log_to` names of transformers' reporters (tensorboard, wandb)."""

    start: Start = Start()
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
            raise CannotRun("uncertainty weights need two heads or more: they weigh by how far these disagree")
        if not 0 <= self.smoothing < 0.5:
            raise CannotRun(f"smoothing is a share of wrong labels from 0 to below 0.5, not {self.smoothing}")
        if not 0 < self.validation_share < 1:
            raise CannotRun(f"the validation share is between 0 and 1, not {self.validation_share}")


@dataclass(frozen=True)
class CritiqueSettings:
    """How critique-out-loud is trained (Ankner et al. 2024, arXiv 2408.11791).

    `critique_weight` is λ in L = L_BT + λ·L_LM, the paper's 5/4. Own critiques are at most `critique_tokens`
    long, sampled at `temperature`, the one at which several are averaged later. Of `training`, the learning
    rate, the batches, the lengths and the rest hold for both trained stages.
    """

    training: TrainingSettings
    critique_weight: float = 1.25
    critique_tokens: int = 256
    temperature: float = 0.5

    def __post_init__(self) -> None:
        if self.critique_weight < 0 or self.temperature < 0 or self.critique_tokens < 1:
            raise CannotRun("the critiques' weight and temperature are not below 0, their tokens at least 1")

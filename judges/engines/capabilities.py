"""What an engine can do, so that a judge asks for nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from judges.types import Usage

Feature = Literal["prefix_continuation", "choice", "label_logprobs", "top_logprobs"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do. The defaults are those of vLLM.

    `prefix_continuation`: it goes on with an unfinished assistant turn. `choice`: it limits a completion to given
    strings. `json_schema`: it limits a completion to a JSON schema. `label_logprobs`: it scores given continuations.
    `top_logprobs`: the largest number of most likely tokens that it lists for each generated one, 0 for none.
    `single_token_numbers`: a number below 1,000 is always one token. `n`: several completions of one request.
    `seed`, `stop`, `temperature`: it takes them; without the last the temperature is fixed. `top_p_with_temperature`:
    it takes both in one request. `reasoning`: thoughts are part of the token limit. `reasoning_effort` and
    `chat_template_kwargs`: it takes these. `max_tokens_name` and `seed_name` are the names of these parameters.
    """

    prefix_continuation: bool = True
    choice: bool = True
    json_schema: bool = True
    label_logprobs: bool = True
    top_logprobs: int = 20
    single_token_numbers: bool = False
    n: bool = True
    seed: bool = True
    stop: bool = True
    temperature: bool = True
    top_p_with_temperature: bool = True
    reasoning: bool = False
    reasoning_effort: bool = True
    chat_template_kwargs: bool = True
    max_tokens_name: str = "max_tokens"
    seed_name: str = "seed"

    @property
    def expected(self) -> bool:
        """Whether probabilities of labels can be had in any way."""
        return self.label_logprobs or self.top_logprobs > 0

    @property
    def forced_in_prefix(self) -> bool:
        """Whether a verdict can be limited to the labels where the assistant's turn is continued."""
        return self.prefix_continuation and self.choice


class NotSupported(Exception):
    """An engine has learned, or knows, that it cannot do what a request needs: it is to be asked in another way.

    `usage` is what was billed for finding out.
    """

    def __init__(self, feature: Feature, message: str, usage: Usage = Usage()) -> None:
        super().__init__(message)
        self.feature = feature
        self.usage = usage

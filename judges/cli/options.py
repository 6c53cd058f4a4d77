"""Options and arguments that several commands share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

# -- what is judged, and by which model -------------------------------------------------------------------------

SPEC = "NAME[,model=M][,engine=E][,key=value …]"
ScorerSpec = Annotated[str, Option("--scorer", help=f"The scorer: {SPEC}.", metavar="SPEC")]
JudgeSpec = Annotated[
    str,
    Option("--scorer", help=f"The scorer: {SPEC}. An LLM judge without a model uses the policy's.", metavar="SPEC"),
]
Model = Annotated[str | None, Option(help="Model of the scorer; the same as model=… in the SPEC.")]
Settings = Annotated[
    list[str] | None,
    Option("--set", help="Setting of the scorer, as key=value. Repeatable.", metavar="KEY=VALUE"),
]
BaseUrls = Annotated[
    list[str] | None,
    Option("--base-url", help="OpenAI-compatible server to use. Repeat it to balance over several servers."),
]
Mapping = Annotated[
    list[str] | None,
    Option("--map", help="Column that holds a field, for example response=answer. Repeatable.", metavar="FIELD=COLUMN"),
]
Limit = Annotated[int | None, Option(min=1, help="Use only the first rows.")]
SubsetLimit = Annotated[int | None, Option(min=1, help="Use only so many rows, taken from all subsets in turn.")]
OutputFolder = Annotated[Path, Option("-o", "--output", help="Folder for all results.")]
RetryFailed = Annotated[bool, Option("--retry-failed", help="Judge the rows again that failed before.")]
Store = Annotated[
    str,
    Option(help="SQLite file of stored completions, which runs can share.", show_default="beside the output"),
]
Seed = Annotated[int, Option(help="Random seed.")]
Quiet = Annotated[bool, Option("--quiet", help="Print no progress, only errors.")]
Verbose = Annotated[
    bool, Option("--verbose", help="Also show the start-up messages of vLLM, transformers and other libraries.")
]

# -- candidates of a policy -------------------------------------------------------------------------------------

POLICY_SPEC = "MODEL[,temperature=0.7,top_p=0.9,max_tokens=512,seed=0 …]"
Policy = Annotated[
    str | None,
    Option(
        help=f"Model that writes the candidates: {POLICY_SPEC}.",
        show_default="the scorer's model",
    ),
]
SampledCandidates = Annotated[int, Option("--candidates", min=2, help="Responses to sample for each prompt.")]

# -- how preference pairs are selected, in `assay pairs` and `assay iterate` ------------------------------------

Choose = Annotated[str, Option(help="Selection of pairs: best-worst, best-random, all or top-k.")]
Top = Annotated[int, Option(min=1, help="The k of top-k.")]
Margin = Annotated[float, Option(min=0, help="Smallest difference between the scores of a pair.")]
Agreement = Annotated[
    float, Option(min=0, max=1, help="Smallest share of the judge's votes that prefer the chosen response.")
]
LengthTolerance = Annotated[
    float,
    Option(min=0, help="Choose the shortest response within this share of the score range below the best."),
]
Whole = Annotated[bool, Option("--whole", help="Leave out candidates that the token limit cut off.")]
Quality = Annotated[bool, Option("--quality", help="Filter the pairs as assay filter does.")]
Against = Annotated[
    list[str] | None,
    Option(help="Benchmark or file whose prompts must not be in the output. Repeatable."),
]

# -- training, in `assay train` and `assay iterate` -------------------------------------------------------------

Lora = Annotated[int, Option(min=0, help="Rank of the LoRA adapters; 0 trains all weights.")]
Epochs = Annotated[float, Option(min=0.01, help="Passes over the training rows.")]
BatchSize = Annotated[int, Option(min=1, help="Rows per step on each device.")]
Accumulation = Annotated[int, Option(min=1, help="Batches whose gradients are summed before each step.")]
Checkpointing = Annotated[bool, Option(help="Gradient checkpointing: less memory for about a third more time.")]

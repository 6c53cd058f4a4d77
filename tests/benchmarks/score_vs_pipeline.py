"""Rewards of many candidates a prompt: ours, and the plain way of fixed, padded batches in file order.

    python tests/benchmarks/score_vs_pipeline.py DATA [--prompts 32]

DATA is a folder with hh_bt_val.jsonl (8 candidates a prompt, drawn from its responses of like length) and
qa_feedback.jsonl (its own 4, with passages in the prompt). The bound is the ratio of tokens computed, padding
included; 90 % of it is the goal. The model is the embedded decoder with a fresh head.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

import torch

from classic_rm.data import EncodedResponse
from classic_rm.model import initialise_model, pad_rows, save_model
from classic_rm.prefix_sharing import split_prefix
from classic_rm.reward_model import RewardModel
from classic_rm.settings import ModelSettings
from judges.data.items import parse_prompt
from judges.types import Item

BATCH = 16


def hh_items(path: Path, prompts: int) -> list[Item]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    draw = random.Random(0)
    pool = sorted({row[side] for row in rows for side in ("chosen", "rejected") if row[side].strip()}, key=len)
    items = []
    for row in draw.sample(rows, prompts):
        place = min(range(len(pool)), key=lambda i: abs(len(pool[i]) - len(row["chosen"])))
        near = pool[max(0, place - 100) : place + 100]
        responses = [row["chosen"], row["rejected"], *draw.sample(near, 6)]
        items.append(Item(id=row["id"], prompt=parse_prompt(row["prompt"]), responses=responses))
    return items


def qa_items(path: Path, prompts: int) -> list[Item]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        Item(id=row["id"], prompt=f"{row['context']}\n\n{row['prompt']}", responses=row["responses"])
        for row in random.Random(0).sample(rows, prompts)
    ]


def plain(model: RewardModel, rows: list[list[int]]) -> tuple[list[float], int]:
    found: list[float] = []
    tokens = 0
    with torch.inference_mode():
        for start in range(0, len(rows), BATCH):
            batch = pad_rows(rows[start : start + BATCH], model.tokenizer.pad_token_id)
            tokens += batch["input_ids"].numel()
            found += model.network.pretrained(**batch).logits[:, 0].tolist()
    return found, tokens


def measure(title: str, items: list[Item], folder: str) -> None:
    # The plain way on an untouched model: transformers' own attention.
    slow, fast = RewardModel(folder, share_prompts=False), RewardModel(folder, batch_size=BATCH)
    groups = []
    for item in items:
        sides = [fast.encode(item.messages, response) for response in item.responses if response.strip()]
        groups.append([side.ids for side in sides if isinstance(side, EncodedResponse)])
    rows = [ids for group in groups for ids in group]
    plain(slow, rows[:BATCH])
    fast.rewards(groups[:2])
    seconds = {"plain": 0.0, "ours": 0.0}
    for _ in range(2):
        began = time.perf_counter()
        expected, padded = plain(slow, rows)
        seconds["plain"] += time.perf_counter() - began
        began = time.perf_counter()
        told = [reward for group in fast.rewards(groups) for (reward,) in group]
        seconds["ours"] += time.perf_counter() - began
    packed = sum(split_prefix(group).tokens for group in groups)
    apart = max(abs(a - b) for a, b in zip(expected, told, strict=True))
    gained, bound = seconds["plain"] / seconds["ours"], padded / packed
    each = {name: taken / 2 for name, taken in seconds.items()}
    print(
        f"{title}: {len(rows)} responses to {len(groups)} prompts;"
        f" plain {each['plain']:.1f} s, {padded:,} tokens; ours {each['ours']:.1f} s, {packed:,} tokens\n"
        f"  {gained:.2f} times, bound {bound:.2f}, reached {gained / bound:.0%} (goal 90 %);"
        f" rewards apart by at most {apart:.1e} (goal 1e-4)",
        flush=True,
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("data", type=Path)
    options.add_argument("--prompts", type=int, default=24, help="of hh_bt_val; a third as many of qa_feedback")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = initialise_model(ModelSettings(base="embedded:smollm2-135m"))
        save_model(model, tokenizer, Path(folder), {})
        measure("hh_bt_val, 8 candidates", hh_items(given.data / "hh_bt_val.jsonl", given.prompts), folder)
        measure("qa_feedback, its 4", qa_items(given.data / "qa_feedback.jsonl", max(1, given.prompts // 3)), folder)


if __name__ == "__main__":
    main()

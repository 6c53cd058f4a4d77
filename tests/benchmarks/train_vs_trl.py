"""Pairs a second of TRL's RewardTrainer and of ours: same decoder, rows, batch size, precision; one run.

    python tests/benchmarks/train_vs_trl.py DATA/hh_bt_train.jsonl [--rows 96] [--batch 8]

Each trainer runs in a process of its own, one after the other, over the same rows once: TRL with its defaults
(random batches, padded), TRL with batches of like length, and ours. The bound is the ratio of the tokens they
compute, padding included; 90 % of it is the goal. Before that all see the same batches in the same order, and
their losses are compared. bf16 and gradient checkpointing are off for all.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORKERS = ("trl", "trl grouped", "ours")


def worker(name: str, folder: Path, rows: Path, batch: int, in_order: bool) -> dict[str, object]:
    import torch
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback, TrainingArguments
    from transformers.trainer_pt_utils import LengthGroupedSampler

    told = json.loads(rows.read_text())
    settings = {
        "output_dir": str(folder / "scratch"),
        "per_device_train_batch_size": batch,
        "num_train_epochs": 1,
        "learning_rate": 1e-5,
        "weight_decay": 0.01,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "seed": 0,
    }
    losses: list[float] = []
    tokens = [0]
    clock: list[float] = []

    class Watch(TrainerCallback):
        def on_train_begin(self, *args: object, **kwargs: object) -> None:
            clock.append(time.perf_counter())

        def on_train_end(self, *args: object, **kwargs: object) -> None:
            clock.append(time.perf_counter())

        def on_log(self, args: object, state: object, control: object, logs: dict[str, float], **_: object) -> None:
            if "loss" in logs:
                losses.append(logs["loss"])

    if name.startswith("trl"):
        from datasets import Dataset
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from trl import RewardConfig, RewardTrainer
        from trl.trainer.reward_trainer import DataCollatorForPreference

        model = AutoModelForSequenceClassification.from_pretrained(folder / "model", dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")

        class Counting(DataCollatorForPreference):
            def torch_call(self, examples: list[dict[str, object]]) -> dict[str, object]:
                found = super().torch_call(examples)
                tokens[0] += found["input_ids"].numel()
                return found

        class Ordered(RewardTrainer):
            def _get_train_sampler(self, train_dataset: object = None) -> object:
                if in_order:
                    return SequentialSampler(self.train_dataset)
                if name == "trl grouped":
                    lengths = [max(len(r["chosen"]), len(r["rejected"])) for r in told]
                    return LengthGroupedSampler(batch, lengths=lengths, generator=torch.Generator().manual_seed(0))
                return super()._get_train_sampler(train_dataset)

        data = Dataset.from_list([{"chosen_ids": r["chosen"], "rejected_ids": r["rejected"]} for r in told])
        trainer = Ordered(
            model=model,
            args=RewardConfig(**settings, center_rewards_coefficient=0.01),
            train_dataset=data,
            processing_class=tokenizer,
            data_collator=Counting(pad_token_id=tokenizer.pad_token_id),
            callbacks=[Watch()],
        )
        first = trainer.data_collator([data[i] for i in range(batch)])
        with torch.no_grad():
            start = trainer.model(input_ids=first["input_ids"], attention_mask=first["attention_mask"]).logits[:, 0]
        start = torch.stack(start.chunk(2), dim=1).flatten()
    else:
        from classic_rm.data import Example
        from classic_rm.model import RewardNetwork, load_model
        from classic_rm.prefix_sharing import enable_prefix_sharing
        from classic_rm.settings import TrainingSettings
        from classic_rm.trainer import Collator, PairTrainer, TrainingExample, network_inputs

        model, tokenizer = load_model(str(folder / "model"))
        network = RewardNetwork(model, dropout=0.0)
        why_not = enable_prefix_sharing(model, 512)
        assert why_not is None, why_not
        collate = Collator(tokenizer.pad_token_id, packed=True)

        def counting(examples: list[TrainingExample]) -> dict[str, torch.Tensor]:
            found = collate(examples)
            tokens[0] += found["input_ids"].numel()
            return found

        class Ours(PairTrainer):
            def _get_train_sampler(self, train_dataset: object = None) -> object:
                return SequentialSampler(self.train_dataset) if in_order else super()._get_train_sampler(train_dataset)

        data = [
            TrainingExample(i, Example(str(i), [r["chosen"], r["rejected"]], [(0, 1)]), (1.0,))
            for i, r in enumerate(told)
        ]
        trainer = Ours(
            model=network,
            args=TrainingArguments(**settings, remove_unused_columns=False),
            train_dataset=data,
            data_collator=counting,
            callbacks=[Watch()],
            settings=TrainingSettings(centring=0.01),
            group_by_length=False,
        )
        with torch.no_grad():
            start = trainer.model.eval()(**network_inputs(counting(data[:batch])))[0][:, 0]
        trainer.model.train()
    tokens[0] = 0
    trainer.train()
    return {
        "seconds": clock[1] - clock[0],
        "tokens": tokens[0],
        "losses": losses,
        "start": start.tolist(),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def run(name: str, folder: Path, rows: Path, batch: int, in_order: bool) -> dict[str, object]:
    command = [sys.executable, __file__, str(rows), "--worker", name, "--folder", str(folder), "--batch", str(batch)]
    done = subprocess.run(command + ["--in-order"] * in_order, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("file", type=Path)
    options.add_argument("--rows", type=int, default=96)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--base", default="embedded:smollm2-135m")
    options.add_argument("--worker", choices=WORKERS)
    options.add_argument("--folder", type=Path)
    options.add_argument("--in-order", action="store_true")
    given = options.parse_args()
    if given.worker:
        print(json.dumps(worker(given.worker, given.folder, given.file, given.batch, given.in_order)))
        return

    import random

    from classic_rm.data import encode_items
    from classic_rm.model import initialise_model, save_model
    from classic_rm.prefix_sharing import split_prefix
    from classic_rm.settings import ModelSettings
    from judges.data.rows import read_rows

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        model, tokenizer = initialise_model(ModelSettings(base=given.base, dropout=0.0))
        save_model(model, tokenizer, folder / "model", {})
        del model
        read = ((row.number, row.item) for row in read_rows(str(given.file)))
        examples, counts = encode_items(tokenizer, read, 512)
        print(counts)
        pairs = [{"chosen": list(e.responses[0]), "rejected": list(e.responses[1])} for e in examples]
        random.Random(0).shuffle(pairs)
        ours = sum(split_prefix([p["chosen"], p["rejected"]]).tokens for p in pairs)
        longest = [max(len(p["chosen"]), len(p["rejected"])) for p in pairs]
        for title, order in (("random batches", range(len(pairs))), ("batches of like length", None)):
            lengths = sorted(longest, reverse=True) if order is None else longest
            padded = sum(
                2 * max(lengths[i : i + given.batch]) * len(lengths[i : i + given.batch])
                for i in range(0, len(lengths), given.batch)
            )
            print(f"all rows, {title}: {padded:,} padded tokens against {ours:,} packed: {padded / ours:.2f} times")
        (folder / "few.json").write_text(json.dumps(pairs[: 4 * given.batch]))
        (folder / "rows.json").write_text(json.dumps(pairs[: given.rows]))

        same = {name: run(name, folder, folder / "few.json", given.batch, True) for name in ("trl", "ours")}
        apart = [abs(a - b) for a, b in zip(same["trl"]["start"], same["ours"]["start"], strict=True)]
        losses = [abs(a - b) for a, b in zip(same["trl"]["losses"], same["ours"]["losses"], strict=True)]
        print(f"rewards at start apart by at most {max(apart):.1e} (goal 1e-5)")
        print(f"losses of the same {len(losses)} batches apart by at most {max(losses):.1e} (goal 1e-3)")

        found = {name: run(name, folder, folder / "rows.json", given.batch, False) for name in WORKERS}
        print(f"{'':12} {'seconds':>8} {'pairs/s':>8} {'tokens':>8} {'peak MiB':>9}")
        for name, told in found.items():
            rate = given.rows / told["seconds"]
            print(f"{name:12} {told['seconds']:8.1f} {rate:8.3f} {told['tokens']:8,} {told['peak_mib']:9,.0f}")
        for name in WORKERS[:2]:
            bound = found[name]["tokens"] / found["ours"]["tokens"]
            gained = found[name]["seconds"] / found["ours"]["seconds"]
            print(f"ours over {name}: {gained:.2f} times, bound {bound:.2f}, reached {gained / bound:.0%} (goal 90 %)")


if __name__ == "__main__":
    main()

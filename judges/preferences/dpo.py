"""One round of DPO: pairs and a model in, a plain checkpoint out; TRL's DPOTrainer trains.

Run by `train_apart` as a process of its own, `python -m judges.preferences.dpo JOB.json`, so that all memory is
free again when it ends; on several GPUs by accelerate's launcher. It tells its progress in lines of JSON on standard
output, and what the user must mend in a file beside the job.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from classic_rm.checkpoints import last_checkpoint, out_of_memory, run_trainer, whole_folder
from judges.data.json_lines import to_line
from judges.engines.embedded import fingerprint, resolve_model
from judges.engines.watchdog import guard
from judges.errors import CannotRun

HISTORY = "training.json"


@dataclass(frozen=True, slots=True)
class DPOSettings:
    """How a policy is trained on pairs (DPO: Rafailov et al. 2023, arXiv 2305.18290).

    `beta` is the weight of staying near the model that the round began with. `lora` is the rank of adapters on all
    linear layers, merged at the end; 0 trains every weight. The learning rate falls to a tenth by a cosine, as in Yuan
    et al. 2024 (1e-6 to 1e-7, batch 16). A step sees `batch_size` · `accumulation` pairs on each process. A pair of
    more than `max_length` tokens is left out and counted: cut, it would teach an end that is none.
    """

    beta: float = 0.1
    lora: int = 16
    learning_rate: float = 2e-5
    epochs: float = 1.0
    batch_size: int = 4
    accumulation: int = 4
    max_length: int = 1024
    warmup_share: float = 0.1
    checkpointing: bool = False
    saves: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.beta > 0 or not self.learning_rate > 0 or not self.epochs > 0:
            raise ValueError("beta, the learning rate and epochs are above 0")
        if min(self.batch_size, self.accumulation, self.saves) < 1 or self.lora < 0 or self.max_length < 8:
            raise ValueError("batch size, accumulation and saves are at least 1, lora 0, the length 8 tokens")


@dataclass(frozen=True, slots=True)
class TrainedPolicy:
    """What came of a training: pairs that were learned from, those that were too long, the Trainer's log, and with
    which `DPOSettings`."""

    pairs: int
    too_long: int
    history: list[dict[str, float]]
    settings: dict[str, Any]


def train_apart(
    base: str,
    files: Sequence[Path],
    output: Path,
    settings: DPOSettings,
    processes: int = 1,
    tell: Callable[[int, int], None] = lambda step, of: None,
) -> TrainedPolicy:
    """Train `base` on files of pairs in a process of its own and save the checkpoint at `output`.

    Killed and called again, it goes on from the last checkpoint (`OUTPUT.training`). `tell` gets the step and of how
    many. Raises CannotRun as the training does: without usable pairs, out of memory, on a full disk.
    """
    job = output.with_name(f"{output.name}.job.json")
    told = {"base": base, "files": [str(file) for file in files], "output": str(output), "settings": asdict(settings)}
    output.parent.mkdir(parents=True, exist_ok=True)
    job.write_text(json.dumps(told), encoding="utf-8")
    error = job.with_suffix(".error")
    error.unlink(missing_ok=True)
    launcher, environment = [sys.executable, "-m"], dict(os.environ)
    if processes == 1:  # several devices that one process sees would be used by copies of the model on threads
        environment["CUDA_VISIBLE_DEVICES"] = environment.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    else:
        launcher += ["accelerate.commands.launch", "--num_processes", str(processes), "-m"]
    with guard():
        child = subprocess.Popen(
            [*launcher, "judges.preferences.dpo", str(job)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
    assert child.stdout is not None and child.stderr is not None
    errors = _Drain(child.stderr)
    try:
        for line in child.stdout:
            if line.startswith(b"{"):
                step = json.loads(line)
                tell(step["step"], step["of"])
        code = child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise
    last = errors.last()
    if error.exists():
        why = error.read_text(encoding="utf-8")
        error.unlink()
        raise CannotRun(why)
    if code in (-9, 137):
        raise CannotRun(
            "the training was killed, most likely for want of memory: halve --batch-size and double --accumulation,"
            " or add --checkpointing; the same command goes on from its checkpoint"
        )
    if code:
        raise CannotRun(
            f"the training ended with exit code {code} ({last}); the same command goes on from its checkpoint"
        )
    job.unlink()
    return read_history(output)


class _Drain:
    """What a process says on standard error, read as it comes so that it never waits; its end is kept."""

    def __init__(self, stream: Any) -> None:
        from collections import deque
        from threading import Thread

        self._lines: deque[bytes] = deque(maxlen=50)
        self._thread = Thread(target=lambda: self._lines.extend(stream), daemon=True)
        self._thread.start()

    def last(self) -> str:
        self._thread.join()
        said = [line.decode(errors="replace").strip() for line in self._lines if line.strip()]
        return said[-1] if said else "it said nothing"


def check_installed() -> None:
    """Raises CannotRun where what trains is not installed."""
    if missing := [name for name in ("trl", "peft", "accelerate") if find_spec(name) is None]:
        raise CannotRun(f"training needs {', '.join(missing)}: pip install 'assay[train]'")


def tidy(output: Path) -> None:
    """Take away what a training that died behind its last line left beside the checkpoint."""
    shutil.rmtree(output.with_name(f"{output.name}.training"), ignore_errors=True)
    output.with_name(f"{output.name}.job.json").unlink(missing_ok=True)


def read_history(model: Path) -> TrainedPolicy:
    """What a checkpoint of `train` tells of its training."""
    return TrainedPolicy(**json.loads((model / HISTORY).read_text(encoding="utf-8")))


def train(
    base: str, files: Sequence[Path], output: Path, settings: DPOSettings, tell: Callable[[int, int], None]
) -> None:
    """The training itself, in this process. Raises CannotRun."""
    import torch
    from accelerate import PartialState
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from transformers.trainer_callback import PrinterCallback
    from trl import DPOConfig, DPOTrainer

    folder = resolve_model(base)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows, too_long = _usable(files, tokenizer, settings.max_length)
    if not rows:
        raise CannotRun(
            f"no pair to train on: {too_long} have more than {settings.max_length} tokens; raise --max-length"
        )
    capable = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    kind = torch.bfloat16 if capable and settings.lora else torch.float32
    scratch = output.with_name(f"{output.name}.training")
    processes = PartialState()
    with processes.main_process_first():
        resume = last_checkpoint(scratch, _fingerprint(base, rows, settings), anew=True)
    a_step = settings.batch_size * settings.accumulation * processes.num_processes
    steps = max(1, round(settings.epochs * -(-len(rows) // a_step)))

    class Report(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                tell(state.global_step, state.max_steps)

    arguments = DPOConfig(
        output_dir=str(scratch),
        beta=settings.beta,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine_warmup_with_min_lr",  # whose first step learns already
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=settings.warmup_share,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        gradient_checkpointing=settings.checkpointing,
        max_length=None,
        bf16=capable,
        save_strategy="steps",
        save_steps=max(1, steps // settings.saves),
        save_total_limit=2,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
        data_seed=settings.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    try:
        trainer = DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype=kind, use_safetensors=True),
            args=arguments,
            train_dataset=_dataset(rows),
            processing_class=tokenizer,
            peft_config=_lora(LoraConfig, settings),
            callbacks=[Report()],
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise out_of_memory(settings.batch_size, settings.max_length) from error
    trainer.remove_callback(PrinterCallback)
    run_trainer(trainer, resume, scratch, settings.batch_size, settings.max_length)
    # FSDP holds a model in pieces: all processes together make it whole.
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.is_fsdp_enabled else None
    if trainer.is_world_process_zero():
        whole = trainer.accelerator.unwrap_model(trainer.model)
        if state is not None:
            whole.load_state_dict(state)
        plain = whole.merge_and_unload() if settings.lora else whole
        log = [{key: float(value) for key, value in row.items()} for row in trainer.state.log_history if "loss" in row]
        with whole_folder(output) as part:
            plain.to("cpu").save_pretrained(part)
            AutoTokenizer.from_pretrained(folder).save_pretrained(part)
            told = {"pairs": len(rows), "too_long": too_long, "history": log, "settings": asdict(settings)}
            (part / HISTORY).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(scratch, ignore_errors=True)
    processes.wait_for_everyone()


def _lora(config: Any, settings: DPOSettings) -> Any:
    if not settings.lora:
        return None
    return config(
        r=settings.lora,
        lora_alpha=2 * settings.lora,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _usable(files: Sequence[Path], tokenizer: Any, max_length: int) -> tuple[list[dict[str, Any]], int]:
    """The pairs of all files that fit, and how many do not."""
    rows: list[dict[str, Any]] = []
    too_long = 0
    for file in files:
        for row in _read(file):
            pair = {key: row[key] for key in ("prompt", "chosen", "rejected")}
            sides = [
                tokenizer.apply_chat_template(pair["prompt"] + pair[key], tokenize=False)
                for key in ("chosen", "rejected")
            ]
            if max(len(ids) for ids in tokenizer(sides, add_special_tokens=False)["input_ids"]) > max_length:
                too_long += 1
            else:
                rows.append(pair)
    return rows, too_long


def row_count(file: Path) -> int:
    """How many pairs a file has."""
    return len(_read(file))


def _read(file: Path) -> list[dict[str, Any]]:
    import pyarrow.json
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(file) if file.suffix == ".parquet" else pyarrow.json.read_json(file)
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def _dataset(rows: list[dict[str, Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(rows)


def _fingerprint(base: str, rows: Sequence[dict[str, Any]], settings: DPOSettings) -> str:
    digest = hashlib.sha256(json.dumps([base, fingerprint(resolve_model(base)), asdict(settings)]).encode())
    for row in rows:
        digest.update(to_line(row))
    return digest.hexdigest()


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))

    def tell(step: int, of: int) -> None:
        print(json.dumps({"step": step, "of": of}), flush=True)

    try:
        files = [Path(file) for file in job["files"]]
        train(job["base"], files, Path(job["output"]), DPOSettings(**job["settings"]), tell)
    except CannotRun as error:
        Path(sys.argv[1]).with_suffix(".error").write_text(str(error), encoding="utf-8")
        sys.exit(2)


if __name__ == "__main__":
    main()

"""DPO training of a policy on preference pairs with TRL's DPOTrainer; saves a standard checkpoint.

`train_in_subprocess` starts this module as `python -m judges.preferences.dpo JOB.json`, so that all memory is free when
the training ends; several processes are started by accelerate's launcher. The subprocess prints its progress as lines
of JSON, and writes errors that the user can correct to JOB.error.
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

from classic_rm.checkpoints import atomic_folder, last_checkpoint, out_of_memory_error, run_trainer
from judges.data.json_lines import to_line
from judges.engines.embedded import fingerprint, resolve_model
from judges.engines.watchdog import guard
from judges.errors import CannotRun

RESULT_FILE = "training.json"


@dataclass(frozen=True, slots=True)
class DPOSettings:
    """Settings of DPO (Rafailov et al. 2023, arXiv 2305.18290). Raises ValueError for values out of range.

    - `beta`: the weight of staying close to the initial policy.
    - `lora`: the rank of LoRA adapters on all linear layers, merged at the end; 0 trains all weights.
    - `learning_rate`: the peak; a cosine schedule falls to a tenth of it, as in Yuan et al. 2024 (1e-6 to 1e-7 with
      batch size 16).
    - `batch_size`, `accumulation`: one step takes `batch_size` times `accumulation` pairs per process.
    - `max_length`: longer pairs, in tokens, are left out and counted. Truncated ones would teach the policy to stop
      early.
    - `warmup_share`: the share of all steps in which the learning rate rises.
    - `checkpointing`: gradient checkpointing.
    - `saves`: how many checkpoints to resume from are saved.
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
            raise ValueError("beta, the learning rate and epochs must be above 0")
        if min(self.batch_size, self.accumulation, self.saves) < 1 or self.lora < 0 or self.max_length < 8:
            raise ValueError(
                "batch size, accumulation and saves must be at least 1, lora at least 0, max length at least 8 tokens"
            )


@dataclass(frozen=True, slots=True)
class DPOResult:
    """The result of a training: the numbers of pairs trained on and left out as too long, the Trainer's log, and the
    `DPOSettings`."""

    pairs: int
    too_long: int
    history: list[dict[str, float]]
    settings: dict[str, Any]


def train_in_subprocess(
    base: str,
    files: Sequence[Path],
    output: Path,
    settings: DPOSettings,
    processes: int = 1,
    on_step: Callable[[int, int], None] = lambda step, total: None,
) -> DPOResult:
    """Train `base` on files of pairs in a subprocess and save the checkpoint at `output`.

    After an interruption, a second call resumes from the last checkpoint in `OUTPUT.training`. `on_step` is called with
    the step and the total number of steps. Raises CannotRun without usable pairs, out of memory, or on a full disk.
    """
    job_file = output.with_name(f"{output.name}.job.json")
    job = {"base": base, "files": [str(file) for file in files], "output": str(output), "settings": asdict(settings)}
    output.parent.mkdir(parents=True, exist_ok=True)
    job_file.write_text(json.dumps(job), encoding="utf-8")
    error_file = job_file.with_suffix(".error")
    error_file.unlink(missing_ok=True)
    launcher, environment = [sys.executable, "-m"], dict(os.environ)
    if processes == 1:  # the Trainer would use DataParallel if one process saw several devices
        environment["CUDA_VISIBLE_DEVICES"] = environment.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    else:
        launcher += ["accelerate.commands.launch", "--num_processes", str(processes), "-m"]
    with guard():
        child = subprocess.Popen(
            [*launcher, "judges.preferences.dpo", str(job_file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
    assert child.stdout is not None and child.stderr is not None
    stderr = _StderrReader(child.stderr)
    try:
        for line in child.stdout:
            if line.startswith(b"{"):
                progress = json.loads(line)
                on_step(progress["step"], progress["of"])
        code = child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise
    last_line = stderr.last_line()
    if error_file.exists():
        message = error_file.read_text(encoding="utf-8")
        error_file.unlink()
        raise CannotRun(message)
    if code in (-9, 137):
        raise CannotRun(
            "the training was killed, most likely out of memory: halve --batch-size and double --accumulation,"
            " or add --checkpointing; the same command resumes from the last checkpoint"
        )
    if code:
        raise CannotRun(
            f"the training failed with exit code {code} ({last_line}); the same command resumes from the last"
            " checkpoint"
        )
    job_file.unlink()
    return read_dpo_result(output)


class _StderrReader:
    """Reads a process's standard error on a thread, so that it never blocks, and keeps the last lines."""

    def __init__(self, stream: Any) -> None:
        from collections import deque
        from threading import Thread

        self._lines: deque[bytes] = deque(maxlen=50)
        self._thread = Thread(target=lambda: self._lines.extend(stream), daemon=True)
        self._thread.start()

    def last_line(self) -> str:
        self._thread.join()
        lines = [line.decode(errors="replace").strip() for line in self._lines if line.strip()]
        return lines[-1] if lines else "nothing on standard error"


def check_installed() -> None:
    """Raises CannotRun if a package that the training needs is not installed."""
    if missing := [name for name in ("trl", "peft", "accelerate") if find_spec(name) is None]:
        raise CannotRun(f"training needs {', '.join(missing)}: pip install 'assay[train]'")


def remove_leftovers(output: Path) -> None:
    """Remove the temporary files of a training that was killed after it had saved the checkpoint."""
    shutil.rmtree(output.with_name(f"{output.name}.training"), ignore_errors=True)
    output.with_name(f"{output.name}.job.json").unlink(missing_ok=True)


def read_dpo_result(model: Path) -> DPOResult:
    """The result that `train` saved beside a checkpoint."""
    return DPOResult(**json.loads((model / RESULT_FILE).read_text(encoding="utf-8")))


def train(
    base: str, files: Sequence[Path], output: Path, settings: DPOSettings, on_step: Callable[[int, int], None]
) -> None:
    """Train in this process; arguments and errors as for `train_in_subprocess`."""
    import torch
    from accelerate import PartialState
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from transformers.trainer_callback import PrinterCallback
    from trl import DPOConfig, DPOTrainer

    folder = resolve_model(base)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows, too_long = _read_usable_pairs(files, tokenizer, settings.max_length)
    if not rows:
        raise CannotRun(
            f"no pair to train on: {too_long} have more than {settings.max_length} tokens; raise --max-length"
        )
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    dtype = torch.bfloat16 if bf16 and settings.lora else torch.float32
    scratch = output.with_name(f"{output.name}.training")
    processes = PartialState()
    with processes.main_process_first():
        resume = last_checkpoint(scratch, _fingerprint(base, rows, settings), overwrite=True)
    pairs_per_step = settings.batch_size * settings.accumulation * processes.num_processes
    steps = max(1, round(settings.epochs * -(-len(rows) // pairs_per_step)))

    class ProgressCallback(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                on_step(state.global_step, state.max_steps)

    arguments = DPOConfig(
        output_dir=str(scratch),
        beta=settings.beta,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine_warmup_with_min_lr",  # its first step has a learning rate above 0
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=settings.warmup_share,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        gradient_checkpointing=settings.checkpointing,
        max_length=None,
        bf16=bf16,
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
    lora_config = None
    if settings.lora:
        lora_config = LoraConfig(
            r=settings.lora,
            lora_alpha=2 * settings.lora,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
    try:
        trainer = DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True),
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=lora_config,
            callbacks=[ProgressCallback()],
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise out_of_memory_error(settings.batch_size, settings.max_length) from error
    trainer.remove_callback(PrinterCallback)
    run_trainer(trainer, resume, scratch, settings.batch_size, settings.max_length)
    # FSDP shards the model, so all processes must take part in gathering its weights.
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.is_fsdp_enabled else None
    if trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model)
        if state is not None:
            model.load_state_dict(state)
        if settings.lora:
            model = model.merge_and_unload()
        log = [{key: float(value) for key, value in row.items()} for row in trainer.state.log_history if "loss" in row]
        result = DPOResult(len(rows), too_long, log, asdict(settings))
        with atomic_folder(output) as part:
            model.to("cpu").save_pretrained(part)
            AutoTokenizer.from_pretrained(folder).save_pretrained(part)
            (part / RESULT_FILE).write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(scratch, ignore_errors=True)
    processes.wait_for_everyone()


def _read_usable_pairs(files: Sequence[Path], tokenizer: Any, max_length: int) -> tuple[list[dict[str, Any]], int]:
    """The pairs of all files that have at most `max_length` tokens, and the number of longer ones."""
    rows: list[dict[str, Any]] = []
    too_long = 0
    for file in files:
        for row in _read_pairs(file):
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


def count_pairs(file: Path) -> int:
    """The number of pairs in a file."""
    return len(_read_pairs(file))


def _read_pairs(file: Path) -> list[dict[str, Any]]:
    import pyarrow.json
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(file) if file.suffix == ".parquet" else pyarrow.json.read_json(file)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _fingerprint(base: str, rows: Sequence[dict[str, Any]], settings: DPOSettings) -> str:
    digest = hashlib.sha256(json.dumps([base, fingerprint(resolve_model(base)), asdict(settings)]).encode())
    for row in rows:
        digest.update(to_line(row))
    return digest.hexdigest()


def main() -> None:
    """Run the job in the file that the first argument names; exit code 2 for an error the user can correct."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))

    def print_progress(step: int, total: int) -> None:
        print(json.dumps({"step": step, "of": total}), flush=True)

    try:
        files = [Path(file) for file in job["files"]]
        train(job["base"], files, Path(job["output"]), DPOSettings(**job["settings"]), print_progress)
    except CannotRun as error:
        Path(sys.argv[1]).with_suffix(".error").write_text(str(error), encoding="utf-8")
        sys.exit(2)


if __name__ == "__main__":
    main()

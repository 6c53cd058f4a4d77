"""What every training on transformers' Trainer shares: going on from a checkpoint, plain errors, whole folders."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from judges.errors import CannotRun

if TYPE_CHECKING:
    from transformers import Trainer


def last_checkpoint(scratch: Path, fingerprint: str, anew: bool = False) -> Path | None:
    """Where a killed run of the same rows and settings goes on; a half-written checkpoint is passed over.

    Raises CannotRun when the folder holds another run; `anew`: that one is given up."""
    manifest, run = scratch / "manifest.json", {"run": fingerprint}
    before = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else None
    if before not in (None, run) and not anew:
        raise CannotRun(f"{scratch} holds a run of other rows or settings; remove it, or give another -o")
    if before != run:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        part = manifest.with_suffix(".part")
        part.write_text(json.dumps(run), encoding="utf-8")
        part.replace(manifest)
    found = []
    for folder in scratch.glob("checkpoint-*"):
        try:  # the state is what the Trainer writes last
            state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
            found.append((int(state["global_step"]), folder))
        except (OSError, ValueError, KeyError):
            shutil.rmtree(folder, ignore_errors=True)
    return max(found)[1] if found else None


def run_trainer(trainer: Trainer, resume: Path | None, scratch: Path, batch_size: int, max_length: int) -> None:
    """Train, from a checkpoint where there is one. Raises CannotRun for what the user can mend."""
    import torch
    from safetensors import SafetensorError

    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError, OSError, SafetensorError) as error:
        told = _told_plainly(error, scratch, batch_size, max_length)
        if told is None:
            raise
        raise told from error


def _told_plainly(error: BaseException, scratch: Path, batch_size: int, max_length: int) -> CannotRun | None:
    """What the user can do about it; None for what is not theirs to mend."""
    import torch
    from safetensors import SafetensorError

    text = str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in text:
        return out_of_memory(batch_size, max_length)
    disk = isinstance(error, OSError | SafetensorError) or "PytorchStreamWriter" in text
    if disk:
        return CannotRun(f"{scratch}: a checkpoint cannot be written: {text.splitlines()[0]}; the one before is whole")
    return None


def out_of_memory(batch_size: int, max_length: int) -> CannotRun:
    return CannotRun(
        f"out of memory at batch size {batch_size} and {max_length} tokens: halve --batch-size and double"
        " --accumulation, or add --checkpointing"
    )


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, whole under its name or not there at all: filled beside, then renamed.

    Raises CannotRun where it cannot be written."""
    from safetensors import SafetensorError

    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.part-", dir=folder.parent))
    try:
        yield part
        part.chmod(0o755)
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old-", dir=folder.parent))
            folder.rename(old / "model")
            part.rename(folder)
            shutil.rmtree(old)
        else:
            part.rename(folder)
    except (OSError, SafetensorError) as error:
        raise CannotRun(f"{folder}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)

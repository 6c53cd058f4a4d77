"""Checkpoints of transformers' Trainer: resuming a killed run, errors that the user can fix, atomic folders."""

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


def last_checkpoint(scratch: Path, fingerprint: str, overwrite: bool = False) -> Path | None:
    """The checkpoint from which a killed run of the same rows and settings resumes; None to start afresh.

    Incomplete checkpoints are deleted. Raises CannotRun when `scratch` has the checkpoints of another run, unless
    `overwrite` is set: they are deleted then."""
    manifest, run = scratch / "manifest.json", {"run": fingerprint}
    existing = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else None
    if existing not in (None, run) and not overwrite:
        raise CannotRun(f"{scratch} has checkpoints of other rows or settings: remove it, or give another -o")
    if existing != run:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        part = manifest.with_suffix(".part")
        part.write_text(json.dumps(run), encoding="utf-8")
        part.replace(manifest)
    checkpoints = []
    for folder in scratch.glob("checkpoint-*"):
        try:  # the state is what the Trainer writes last
            state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
            checkpoints.append((int(state["global_step"]), folder))
        except (OSError, ValueError, KeyError):
            shutil.rmtree(folder, ignore_errors=True)
    return max(checkpoints)[1] if checkpoints else None


def run_trainer(trainer: Trainer, resume: Path | None, scratch: Path, batch_size: int, max_length: int) -> None:
    """Train, from the checkpoint `resume` if given. Raises CannotRun for errors that the user can fix."""
    import torch
    from safetensors import SafetensorError

    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError, OSError, SafetensorError) as error:
        user_error = _user_error(error, scratch, batch_size, max_length)
        if user_error is None:
            raise
        raise user_error from error


def _user_error(error: BaseException, scratch: Path, batch_size: int, max_length: int) -> CannotRun | None:
    """The error with its remedy; None where it is not the user's to fix."""
    import torch
    from safetensors import SafetensorError

    text = str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in text:
        return out_of_memory_error(batch_size, max_length)
    if isinstance(error, OSError | SafetensorError) or "PytorchStreamWriter" in text:
        reason = text.splitlines()[0]
        return CannotRun(f"{scratch}: a checkpoint cannot be written: {reason}; the checkpoint before it is complete")
    return None


def out_of_memory_error(batch_size: int, max_length: int) -> CannotRun:
    """The error to raise when training runs out of memory."""
    return CannotRun(
        f"out of memory at batch size {batch_size} and {max_length} tokens: halve --batch-size and double"
        " --accumulation, or add --checkpointing"
    )


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `folder` when the block ends without an error.

    An existing folder is replaced. Raises CannotRun when the folder cannot be written."""
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

"""What is judged: one file, or a folder of files; which rows of it; and a digest that tells one input from another."""

from __future__ import annotations

import hashlib
import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judges.data.readers import SHOWN, STANDARD_INPUT, Records, format_of
from judges.errors import CannotRun

WHOLE_BYTES = 1 << 30  # a larger file is known by its size and by pieces of it
_PIECE, _PIECES = 1 << 20, 256


@dataclass(frozen=True, slots=True)
class Shard:
    """A file to read, the name of what comes of it, and the rows to judge: numbers from `start` + 1 to `stop`."""

    path: str
    name: str
    prefix: str = ""
    start: int = 0
    stop: int | None = None


def is_folder(source: str) -> bool:
    """Whether a source is a folder of files (one that `datasets` saved is one file)."""
    folder = Path(source).expanduser()
    return source != STANDARD_INPUT and folder.is_dir() and not (folder / "state.json").is_file()


def is_stream(source: str) -> bool:
    """Whether a source has no bytes here that could be told from another's."""
    return source == STANDARD_INPUT or source.startswith("hf:")


def shards_of(source: str) -> tuple[Shard, ...]:
    """One file, or every file of a folder that has a known format, by name. Raises CannotRun where there is none."""
    if is_stream(source):
        return (Shard(source, "rows.jsonl"),)
    path = Path(source).expanduser()
    if not is_folder(source):
        if not path.exists():
            raise CannotRun(f"no file {source!r}")
        if not path.is_file() and not path.is_dir():
            raise CannotRun(f"{source!r} is a pipe or a device, not a file; give - to read JSON lines from a pipe")
        if path.is_file() and format_of(path.name) is None:
            raise CannotRun(f"{source!r}: unknown format; there are {SHOWN}")
        return (Shard(source, path.name if path.is_file() else "rows.jsonl"),)
    if (path / "dataset_dict.json").is_file():
        raise CannotRun(f"{source!r} holds a dataset of several splits; give the folder of one of them")
    try:
        named = [f for f in path.iterdir() if format_of(f.name) and not f.name.startswith((".", "_"))]
    except OSError as error:
        raise CannotRun(f"{source!r}: cannot be read: {error.strerror}") from error
    if lost := [f for f in named if not f.exists()]:
        raise CannotRun(f"{lost[0]} is a link that leads nowhere; mend it or take it away")
    files = sorted(f for f in named if f.is_file())
    if not files:
        raise CannotRun(f"{source!r}: no file in it has a known format; there are {SHOWN}")
    stems = {file: file.name.removesuffix("".join(format_of(file.name) or ())) for file in files}
    alone = Counter(stems.values())
    return tuple(
        Shard(str(file), file.name, prefix=f"{stem if alone[stem] == 1 else file.name}/")
        for file, stem in stems.items()
    )


def digest(source: str) -> dict[str, Any]:
    """What tells this input from another: of a file a hash, of a folder its files with size and hash of pieces."""
    if is_stream(source):
        return {"input": source}
    path = Path(source).expanduser()
    if is_folder(source):
        files = [Path(shard.path) for shard in shards_of(source)]
        return {"input_files": [[f.name, f.stat().st_size, file_digest(f, whole=False)] for f in files]}
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.is_file())
        return {"input_files": [[f.name, f.stat().st_size, file_digest(f, whole=False)] for f in files]}
    return {"input_sha256": file_digest(path, whole=path.stat().st_size <= WHOLE_BYTES)}


def file_digest(file: Path, whole: bool = True) -> str:
    """SHA-256 of a file; not `whole`: of its size and of pieces of 1 MiB, evenly spread, the first and last of them."""
    try:
        with open(file, "rb") as data:
            size = os.fstat(data.fileno()).st_size
            if whole or size <= 2 * _PIECE:
                return hashlib.file_digest(data, "sha256").hexdigest()
            pieces = min(_PIECES, size // _PIECE)
            found = hashlib.sha256(str(size).encode())
            for number in range(pieces):
                data.seek((size - _PIECE) * number // (pieces - 1))
                found.update(data.read(_PIECE))
            return f"{found.hexdigest()} of pieces"
    except OSError as error:
        raise CannotRun(f"{file}: cannot be read: {error.strerror}") from error


def drawn(shards: Sequence[Shard], count: int, seed: int = 0) -> list[frozenset[int]]:
    """`count` rows at random out of all, as the numbers of each shard; the same for the same input."""
    if any(is_stream(shard.path) for shard in shards):
        raise CannotRun("--sample reads its input twice, which cannot be done with this one; give a file")
    sizes = [sum(1 for _ in Records(shard.path)) for shard in shards]
    chosen = random.Random(seed).sample(range(sum(sizes)), min(count, sum(sizes)))
    found: list[frozenset[int]] = []
    begin = 0
    for size in sizes:
        found.append(frozenset(place - begin + 1 for place in chosen if begin <= place < begin + size))
        begin += size
    return found


def ranges(shard: Shard, rows: int) -> tuple[Shard, ...]:
    """One file as shards of `rows` rows, to be judged apart. Reads it once, to count."""
    count = sum(1 for _ in Records(shard.path))
    parts = range(0, max(count, 1), rows)
    return tuple(
        Shard(shard.path, f"part-{n:05d}.jsonl", shard.prefix, begin, min(begin + rows, count))
        for n, begin in enumerate(parts)
    )

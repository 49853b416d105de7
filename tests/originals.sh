#!/usr/bin/env bash
# Runs the tests that touch MMDetection with the original packages (mmdet 3.3, mmcv-lite 2.1,
# mmengine 0.10) in place of their maintained continuation (onedl-*), on current PyTorch.
#
#     tests/originals.sh [PYTEST ARGS ...]
#
# Needs Python 3.11 or newer (PYTHON=... chooses one) and a few GB below TMPDIR while it runs.
# pip's own settings (PIP_EXTRA_INDEX_URL, ...) choose where PyTorch comes from.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tests=(
    tests/test_mmcv_ops.py tests/test_mmcv_nms.py tests/test_mmcv_bridge.py tests/test_initialiser.py
    tests/test_wiring.py tests/test_metric.py tests/test_train.py tests/test_resume.py tests/test_loops.py
    tests/test_bad_checkpoints.py tests/test_randomness.py
)
originals=(mmdet==3.3.0 mmcv-lite==2.1.0 mmengine==0.10.7)
# What the originals need. They are installed without their own lists, which ask for an opencv that
# does not start on machines without a display. setuptools 81 is the last with pkg_resources, which
# mmengine 0.10 imports to find an installed package's configs.
needs=(
    addict opencv-python-headless packaging platformdirs pyyaml 'setuptools<82' shapely six
    termcolor terminaltables tqdm yapf
)

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
python=$folder/venv/bin/python

# The suite's own dependencies, and the libraries whose networks it takes, without the continuation.
mapfile -t ours < <("$python" - <<'EOF'
import tomllib
project = tomllib.load(open('pyproject.toml', 'rb'))['project']
print(*(need for need in project['dependencies'] if not need.startswith('onedl-')), sep='\n')
print(*(need for extra in ('timm', 'pytorchcv') for need in project['optional-dependencies'][extra]), sep='\n')
EOF
)

"$python" -m pip install --quiet "${ours[@]}" "${needs[@]}" hypothesis pytest wheel
"$python" -m pip install --quiet --no-deps "${originals[@]}"
"$python" -m pip install --quiet --no-deps --no-build-isolation --editable . # code stays the checkout's
"$python" -m pytest "${tests[@]}" "$@"

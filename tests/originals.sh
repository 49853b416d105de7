#!/usr/bin/env bash
# Run the tests that use MMDetection with the original packages (mmdet 3.3, mmcv-lite 2.1, mmengine 0.10)
# in place of their maintained continuation (onedl-*), with current PyTorch.
#
#     tests/originals.sh [PYTEST ARGS ...]
#
# Requires Python 3.11 or newer (set PYTHON to choose one) and a few GB of space in TMPDIR.
# pip's settings (PIP_EXTRA_INDEX_URL, ...) determine the source of PyTorch.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tests=(
    tests/backbones/test_mmcv_ops.py tests/backbones/test_mmcv_nms.py tests/backbones/test_mmcv_bridge.py
    tests/backbones/test_initializer.py tests/backbones/test_wiring.py tests/evaluation/test_metric.py
    tests/training/test_train.py tests/training/test_resume.py tests/training/test_loops.py
    tests/training/test_bad_checkpoints.py tests/training/test_randomness.py
    tests/config/test_argument_types.py
)
originals=(mmdet==3.3.0 mmcv-lite==2.1.0 mmengine==0.10.7)
# Dependencies of the original packages, which are installed with --no-deps: they require an opencv package
# that cannot be imported on machines without a display. setuptools 81 is the last version with
# pkg_resources, which mmengine 0.10 imports to find an installed package's configs.
dependencies=(
    addict opencv-python-headless packaging platformdirs pyyaml 'setuptools<82' shapely six
    termcolor terminaltables tqdm yapf
)

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
python=$folder/venv/bin/python

# The suite's dependencies, including timm and pytorchcv, without the continuation (onedl-*).
mapfile -t suite < <("$python" - <<'EOF'
import tomllib
project = tomllib.load(open('pyproject.toml', 'rb'))['project']
print(*(need for need in project['dependencies'] if not need.startswith('onedl-')), sep='\n')
print(*(need for extra in ('timm', 'pytorchcv') for need in project['optional-dependencies'][extra]), sep='\n')
EOF
)

"$python" -m pip install --quiet "${suite[@]}" "${dependencies[@]}" hypothesis pytest wheel
"$python" -m pip install --quiet --no-deps "${originals[@]}"
"$python" -m pip install --quiet --no-deps --no-build-isolation --editable . # tests the checkout's code
"$python" -m pytest "${tests[@]}" "$@"

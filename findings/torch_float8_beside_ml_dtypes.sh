#!/bin/sh
# Guess: torch and ml_dtypes convert to the same 8-bit floats alike: out of range is NaN in e4m3fn,
#   which has no infinity; a negative number or zero, which e8m0 can't hold, is NaN.
# What is: on the CPU torch makes 448 of everything too large for e4m3fn, even of infinity, while
#   e5m2 overflows to infinity; e8m0 drops the sign (-2 becomes 2) and makes 2**-127 of 0. ml_dtypes
#   says NaN for all these.
# Seen since: torch 2.13.0 and ml_dtypes 0.6.0 (earlier ones weren't tried)
# What to do: look for infinities and signs before the conversion; don't compare files of the two by
#   bytes.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
venv=${FINDINGS_VENV:-$folder/venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet torch==2.13.0 ml_dtypes==0.6.0 numpy==2.4.6
unset PYTHONPATH
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
cd "$folder"
"$venv/bin/python" -W ignore - <<'PYTHON'
import ml_dtypes
import numpy
import torch

print("torch", torch.__version__, "ml_dtypes", ml_dtypes.__version__)
numpy.seterr(all="ignore")

def both(kind, value):
    in_torch = torch.tensor(value).to(getattr(torch, kind)).float().item()
    other = numpy.float32(value).astype(getattr(ml_dtypes, kind)).astype(numpy.float32)
    return in_torch, float(other)

cases = [("float8_e4m3fn", 410.0, 416.0, 416.0), ("float8_e4m3fn", 500.0, 448.0, None),
         ("float8_e4m3fn", float("inf"), 448.0, None),
         ("float8_e5m2", 70000.0, float("inf"), float("inf")),
         ("float8_e8m0fnu", 3.0, 4.0, 4.0), ("float8_e8m0fnu", -2.0, 2.0, None),
         ("float8_e8m0fnu", 0.0, 2.0**-127, None)]
for kind, value, in_torch, other in cases:
    got = both(kind, value)
    print(kind, value, "-> torch", got[0], "ml_dtypes", got[1])
    assert got[0] == in_torch
    assert got[1] == other if other is not None else got[1] != got[1]
PYTHON

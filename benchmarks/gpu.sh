#!/bin/sh
# The table of docs/scale.md and the other benches on a GPU: one JSON file each, beside this script.
#
#   sh benchmarks/gpu.sh            all benches that know a GPU, about an hour
#   sh benchmarks/gpu.sh suite      the passes of a run alone
#
# Exits with 3 if a bar does not hold and with 1 if a bench could not be run; the others run all the same.
set -u
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python}
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
    echo "gpu.sh: torch sees no GPU; run \`python -m benchmarks NAME\` for the table on a CPU." >&2
    exit 1
}
worst=0
for name in ${*:-suite memory beside access commitment training}; do
    "$python" -m benchmarks "$name" --device cuda --json "benchmarks/$name-cuda.json" --quiet
    code=$?
    if [ "$code" -eq 3 ]; then [ "$worst" -eq 1 ] || worst=3; elif [ "$code" -ne 0 ]; then worst=1; fi
done
exit "$worst"

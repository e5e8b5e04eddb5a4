# A researcher with an own network and an own method: from an empty folder to a table with its spread.
set -euo pipefail
cat > small.py <<'PY'
from torch import nn


def build(outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, outputs))
PY
cp "$README_METHOD" above.py

polymask roles --method above:Above --model small:build --shape 1 8 8 > said.txt && grep -q "1.weight" said.txt
polymask run --method above:Above --model small:build --stream digits --epochs 2 --out runs/own --quiet > first.txt
grep -q "above: average" first.txt
# The same command again learns nothing again and says the same.
polymask run --method above:Above --model small:build --stream digits --epochs 2 --out runs/own --quiet > again.txt
cmp first.txt again.txt
polymask verify runs/own > said.txt && grep -q "nothing was forgotten" said.txt
polymask compare --methods above:Above finetune --model small:build --stream digits --epochs 1 --seeds 0 1 --out runs/both --quiet > table.txt
grep -q "finetune" table.txt
test -s runs/both/table.md && test -s runs/both/table.tex && test -s runs/both/runs.csv && test -s runs/both/table.json
polymask report runs/both
polymask report runs/own
# What cannot be meant is one line, and code 2.
code=0; polymask run --method above:Abov --model small:build --stream digits > /dev/null 2> wrong.txt || code=$?
test "$code" != 0 && test "$(wc -l < wrong.txt)" = 1

# A practitioner with folders of images: learn, add a task later, ask, move, remove, hand over.
set -euo pipefail
python - <<'PY'
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

NAMES = ["zero", "one", "two", "three", "four", "five"]
for pixels, label in zip(*load_digits(return_X_y=True)):
    if label < 6:
        folder = Path("images", ["round", "bent", "open"][label // 2], NAMES[label])
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((pixels.reshape(8, 8) * 15.9).astype("uint8")).resize((12, 12))
        image.save(folder / f"{len(list(folder.iterdir())):03d}.png")
Path("ask").mkdir()
for name in ("zero", "one"):
    Image.open(f"images/round/{name}/003.png").convert("RGB").resize((40, 30)).save(f"ask/{name}.jpg")
PY

polymask run --method hat --stream datasets --data ./images/round ./images/bent --size 8 8 --epochs 20 --out runs/live --quiet
polymask tasks runs/live > said.txt && grep -q "zero" said.txt
polymask predict runs/live ask/zero.jpg --task "#1" > one.txt
polymask predict runs/live ask --task "#1" --out answers.csv
test "$(wc -l < answers.csv)" = 3

# A week later a third task; the two before answer as they did.
polymask add runs/live --stream datasets --data ./images/open --epochs 20 --quiet
polymask verify runs/live > said.txt && grep -q "nothing was forgotten" said.txt
polymask predict runs/live ask/zero.jpg --task "#1" > after.txt
cmp one.txt after.txt

# The folder moves, the second task goes; numbers stay with their tasks.
mkdir elsewhere && mv runs/live elsewhere/
polymask remove elsewhere/live "#2"
polymask verify elsewhere/live > said.txt && grep -q "nothing was forgotten" said.txt
polymask predict elsewhere/live ask/zero.jpg --task "#1" > moved.txt
cmp one.txt moved.txt
polymask tasks elsewhere/live > said.txt && grep -q '^3 ' said.txt

polymask export elsewhere/live --task "#1" --to onnx --out zero-or-one.onnx
polymask export elsewhere/live --task "#1" --to torch --prune --out zero-or-one.pt2
polymask report elsewhere/live
code=0; polymask predict elsewhere/live ask/none.jpg --task "#1" > /dev/null 2> wrong.txt || code=$?
test "$code" != 0 && test "$(wc -l < wrong.txt)" = 1

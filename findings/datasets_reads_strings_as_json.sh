#!/bin/sh
# Guess: load_dataset("json") refuses a column of mixed types, or fills it up with None; a string
#   stays a string.
# What is: a column in which strings meet numbers, lists or objects becomes the type Json, and on
#   reading each string that happens to be JSON is parsed: the postcode "01234" is 1234, "null" is
#   None, "true" is True, and the user's message "42" is the number 42 when another row's content is
#   a list of parts.
# Seen since: datasets 5.2.0 (earlier ones weren't tried)
# What to do: read JSON lines with the json module, or pass features=.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
venv=${FINDINGS_VENV:-$folder/venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet datasets==5.2.0
unset PYTHONPATH
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
cd "$folder"
"$venv/bin/python" -W ignore - <<'PYTHON'
import json

import datasets
from datasets import load_dataset

print("datasets", datasets.__version__)
datasets.disable_progress_bars()

def read(name, rows):
    with open(name, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return list(load_dataset("json", data_files=name, split="train", cache_dir="cache"))

codes = [{"code": text} for text in ("01234", "null", "true", "x", "[1]")]
plain = read("strings.jsonl", codes)
mixed = read("mixed.jsonl", [*codes, {"code": 7}])
print("strings alone:", [row["code"] for row in plain])
print("with a 7:     ", [row["code"] for row in mixed])
assert plain == codes
assert [row["code"] for row in mixed] == [1234, None, True, "x", [1], 7]
chat = read("chat.jsonl", [
    {"messages": [{"role": "user", "content": "42"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}])
print("chat:", chat)
assert chat[0]["messages"][0]["content"] == 42
PYTHON

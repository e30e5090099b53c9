import subprocess
import sys
from pathlib import Path

from tests.unit.adapters.peft_folder import write_folder

_PROGRAM = """
import sys
import adapters, adapters.commands.cli, adapters.format.digest, adapters.format.inspection
import adapters.stack, adapters.store.store
from pathlib import Path
store = adapters.store.store.AdapterStore(Path(sys.argv[1]))
store.import_folder("sql", Path(sys.argv[2]))
print(store.get(adapters.names.parse_ref("sql")).label)
print(sorted({name.partition(".")[0] for name in sys.modules} & set(sys.argv[3:])))
"""


def test_names_format_and_store_import_no_torch(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "trained")
    heavy = ["torch", "transformers", "peft", "bitsandbytes", "numpy", "safetensors"]
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path / "store"), str(folder), *heavy],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "sql@1\n[]\n"

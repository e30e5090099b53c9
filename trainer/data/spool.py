"""Clean rows on their way, between the two passes over them."""

import json
from collections.abc import Iterator
from pathlib import Path

from trainer.data.judged import DataRow, parse_row

PlacedRow = tuple[str, DataRow]
"""Where a row stands in its file, and the row."""


class RowSpool:
    """Rows in the order they came: in memory, or one a line in the file `path`."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._held: list[PlacedRow] = []
        self._file = None if path is None else path.open("w", encoding="utf-8")
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, place: str, row: DataRow) -> None:
        self._count += 1
        if self._file is None:
            self._held.append((place, row))
        else:
            # JSON writes a line break inside of text as \n, so that a line is a row.
            self._file.write(json.dumps([place, row.document()], ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Nothing more comes; from here on it can be iterated, any number of times."""
        if self._file is not None:
            self._file.close()

    def __iter__(self) -> Iterator[PlacedRow]:
        if self._path is None:
            yield from self._held
            return
        with self._path.open(encoding="utf-8", newline="\n") as lines:
            for line in lines:
                place, document = json.loads(line)
                yield place, parse_row(document)

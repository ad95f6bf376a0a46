"""Reads cupti.bin in the plainest way, for tests of what writes it: frames by struct, rows as tuples."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

_ROWS = {  # kind: name, layout, columns
    2: ("kernel", "<qqQIIIIII3I3HHIII", "start end graph_node correlation stream device context name graph grid_x"),
    3: ("memcpy", "<qqQQIIIIBBBBI", "start end bytes graph_node correlation stream device context copy_kind"),
    4: ("memset", "<qqQQIIIIII", "start end bytes graph_node correlation stream device context value graph"),
    5: ("call", "<qqIIHHIII", "start end correlation thread domain unused call return_value"),
    6: ("sync", "<qqIIIIII", "start end correlation stream context event type"),
    7: ("overhead", "<qqII", "start end type thread"),
    8: ("node", "<qQQII", "created node original thread graph"),
    9: ("device", "<IIIIQQII", "device major minor multiprocessors memory_bytes bandwidth name"),
    10: ("event", "<qIIQ", "at what detail count"),
    11: ("call_name", "<IIII", "domain call name unused"),
}
NO_TEXT = 0xFFFFFFFF


class Frames:
    """What one file holds: `version` of CUPTI, `texts` by number, `rows` by kind, `torn`: bytes behind the last frame."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        magic, version, self.cupti, self.process, _ = struct.unpack_from("<8sIIqq", data)
        assert (magic, version) == (b"TETRCUP\0", 1)
        self.texts: dict[int, str] = {}
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name, _, _ in _ROWS.values()}
        at = 32
        while at + 16 <= len(data):
            frame, kind, row_bytes, rows, payload = struct.unpack_from("<IHHII", data, at)
            whole = 16 + (payload + 7) // 8 * 8
            if frame != 0x4D415246 or at + whole > len(data):
                break
            self._add(kind, row_bytes, rows, data[at + 16 : at + 16 + payload])
            at += whole
        self.torn = len(data) - at

    def _add(self, kind: int, row_bytes: int, rows: int, payload: bytes) -> None:
        if kind == 1:
            self._add_texts(rows, payload)
            return
        name, layout, columns = _ROWS[kind]
        assert struct.calcsize(layout) == row_bytes
        assert len(payload) == rows * row_bytes
        names = columns.split()
        self.rows[name] += [dict(zip(names, row, strict=False)) for row in struct.iter_unpack(layout, payload)]

    def _add_texts(self, count: int, payload: bytes) -> None:
        at = 0
        for _ in range(count):
            number, length = struct.unpack_from("<II", payload, at)
            self.texts[number] = payload[at + 8 : at + 8 + length].decode()
            at += 8 + (length + 3) // 4 * 4
        assert at == len(payload)

    def names(self, kind: str) -> list[str]:
        """The names of the rows of `kind`; every one must be a text of the file."""
        return [self.texts[row["name"]] for row in self.rows[kind]]

    def events(self) -> list[tuple[int, str, int]]:
        """What happened, its detail and count; the place kept for losses only when there were some."""
        rows = [row for row in self.rows["event"] if row["what"] != 0]
        return [(row["what"], self.texts.get(row["detail"], ""), row["count"]) for row in rows]

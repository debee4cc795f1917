"""Files that hold a cloud of points: .pcd, .ply, .npy and .npz."""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tasks.prepared import Unusable

AXES = ("x", "y", "z")
PCD_TYPES = {"F": "f", "I": "i", "U": "u"}
PLY_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
PLY_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": None}
LONGEST_HEADER = 2**16


def read_cloud(path: Path) -> np.ndarray:
    """The points of a file, float32 (points, 3); colours and normals are left aside.

    Raises:
        Unusable: If the file is not what its ending says, or a number is not finite.
        OSError: If there is no such file.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(READERS)
        raise Unusable(f"{path}: expected a file that ends in {known}")
    try:
        points = reader(path)
    except (ValueError, KeyError, IndexError, EOFError) as error:
        raise Unusable(f"{path}: {error}") from error
    if points.ndim != 2 or points.shape[1] < len(AXES):
        raise Unusable(f"{path}: expected points of three coordinates, got shape {points.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        points = points[:, : len(AXES)].astype(np.float32)
    bad = ~np.isfinite(points).all(axis=1)
    if bad.any():
        row = int(bad.argmax())
        raise Unusable(f"{path}: point {row + 1} of {len(points)} is {points[row].tolist()}")
    return points


def _read_numpy(path: Path) -> np.ndarray:
    found = np.load(path, allow_pickle=False)
    if isinstance(found, np.ndarray):
        return _numbers(found)
    with found:
        name = "points" if "points" in found.files else next(iter(found.files), "points")
        if name != "points" and len(found.files) > 1:
            raise ValueError(f"expected an array called points, got {', '.join(found.files)}")
        return _numbers(found[name])


def _numbers(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise ValueError(f"expected numbers, got {array.dtype}")
    return array


def _read_pcd(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        header: dict[str, list[str]] = {}
        while "DATA" not in header:
            name, *values = _header_line(file, "a line DATA").split() or [""]
            header[name.upper()] = values
        missing = [name for name in ("FIELDS", "SIZE", "TYPE", "POINTS") if not header.get(name)]
        if missing:
            raise ValueError(f"no {missing[0]} in the header")
        fields = header["FIELDS"]
        counts = header.get("COUNT", ["1"] * len(fields))
        columns = list(zip(fields, header["TYPE"], header["SIZE"], counts, strict=True))
        types = [(PCD_TYPES[kind.upper()] + size, int(count)) for _, kind, size, count in columns]
        kind, num_points = " ".join(header["DATA"]).lower(), int(header["POINTS"][0])
        if kind == "ascii":
            firsts = np.cumsum([0, *(count for _, count in types)])
            return _read_table(file, [int(firsts[fields.index(axis)]) for axis in AXES], num_points)
        if kind != "binary":
            raise ValueError(f"DATA {kind} is not read, only ascii and binary")
        names = [f"{i} {name}" for i, name in enumerate(fields)]
        row = np.dtype([(name, "<" + t, n) for name, (t, n) in zip(names, types, strict=True)])
        return _read_rows(file, row, [names[fields.index(axis)] for axis in AXES], num_points)


def _read_ply(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        if _header_line(file, "ply").strip() != "ply":
            raise ValueError("no ply in the first line")
        order, num_points, properties, element = "", -1, [], ""
        while (line := _header_line(file, "end_header")).strip() != "end_header":
            match line.split():
                case ["format", order, *_]:
                    pass
                case ["element", element, count]:
                    if element == "vertex":
                        num_points = int(count)
                    elif num_points < 0:
                        raise ValueError(f"element {element} stands before the vertices")
                case ["property", "list", *_] if element == "vertex":
                    raise ValueError("a vertex with a list is not read")
                case ["property", kind, name] if element == "vertex":
                    properties.append((name, PLY_TYPES[kind]))
        if order not in PLY_ORDERS or num_points < 0:
            raise ValueError("no format or no vertices in the header")
        names = [name for name, _ in properties]
        sign = PLY_ORDERS[order]
        if sign is None:
            return _read_table(file, [names.index(axis) for axis in AXES], num_points)
        row = np.dtype([(name, sign + kind) for name, kind in properties])
        return _read_rows(file, row, list(AXES), num_points)


def _header_line(file: BinaryIO, expected: str) -> str:
    line = file.readline(LONGEST_HEADER)
    if not line or file.tell() > LONGEST_HEADER:
        raise ValueError(f"the header has no {expected}")
    return line.decode("ascii", "replace")


def _read_table(file: BinaryIO, columns: list[int], num_points: int) -> np.ndarray:
    """So many lines of numbers; what follows them is of something else."""
    lines = [line for line in file.read().decode("ascii", "replace").splitlines() if line.strip()]
    if len(lines) < num_points:
        raise ValueError(f"{num_points} points by its header, got {len(lines)}")
    rows = [line.split() for line in lines[:num_points]]
    for number, row in enumerate(rows, start=1):
        if len(row) <= max(columns):
            raise ValueError(f"point {number} of {num_points} has only {len(row)} numbers")
    return np.array([[float(row[i]) for i in columns] for row in rows]).reshape(-1, len(AXES))


def _read_rows(file: BinaryIO, row: np.dtype, names: list[str], num_points: int) -> np.ndarray:
    data = file.read(num_points * row.itemsize)
    if len(data) < num_points * row.itemsize:
        raise ValueError(f"{num_points} points by its header, got {len(data) // row.itemsize}")
    rows = np.frombuffer(data, row, num_points)
    return np.stack([rows[name].reshape(num_points, -1)[:, 0] for name in names], axis=1)


READERS: dict[str, Callable[[Path], np.ndarray]] = {
    ".pcd": _read_pcd,
    ".ply": _read_ply,
    ".npy": _read_numpy,
    ".npz": _read_numpy,
}
"""By the ending of the file."""

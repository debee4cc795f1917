"""Files of points: what was written is read, and what is broken is named."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks.cab.point_cloud_completion.clouds import read_cloud
from tasks.prepared import Unusable

POINTS = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)


def pcd(kind: str, points: np.ndarray = POINTS, **changes: str) -> bytes:
    """A PCD file with a field before and one between the coordinates."""
    header = {
        "VERSION": "0.7",
        "FIELDS": "flags x y rgb z",
        "SIZE": "1 4 4 4 8",
        "TYPE": "U F F U F",
        "COUNT": "2 1 1 1 1",
        "WIDTH": str(len(points)),
        "HEIGHT": "1",
        "POINTS": str(len(points)),
        "DATA": kind,
        **changes,
    }
    lines = "".join(f"{name} {value}\n" for name, value in header.items() if value)
    if kind == "ascii":
        rows = "".join(f"1 2 {x!r} {y!r} 77 {z!r}\n" for x, y, z in points.tolist())
        return (f"# a comment\n{lines}" + rows).encode()
    rows = b"".join(struct.pack("<BBffId", 1, 2, x, y, 77, z) for x, y, z in points.tolist())
    return lines.encode() + rows


def ply(kind: str) -> bytes:
    header = (
        f"ply\nformat {kind} 1.0\ncomment made by hand\nelement vertex {len(POINTS)}\n"
        "property double z\nproperty float x\nproperty uchar red\nproperty float y\n"
        "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    )
    if kind == "ascii":
        rows = "".join(f"{z!r} {x!r} 255 {y!r}\n" for x, y, z in POINTS.tolist())
        return (header + rows + "3 0 1 2\n").encode()
    order = "<" if kind == "binary_little_endian" else ">"
    rows = b"".join(struct.pack(f"{order}dfBf", z, x, 255, y) for x, y, z in POINTS.tolist())
    return header.encode() + rows + struct.pack(f"{order}Biii", 3, 0, 1, 2)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ascii.pcd", pcd("ascii")),
        ("binary.PCD", pcd("binary")),
        ("ascii.ply", ply("ascii")),
        ("little.ply", ply("binary_little_endian")),
        ("big.ply", ply("binary_big_endian")),
    ],
)
def test_points_are_read_whatever_stands_between_them(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    points = read_cloud(tmp_path / name)
    assert points.dtype == np.float32
    assert np.array_equal(points, POINTS)


def test_arrays_are_read_with_their_normals_left_aside(tmp_path: Path) -> None:
    with_normals = np.concatenate([POINTS, -POINTS], axis=1).astype(np.float64)
    np.save(tmp_path / "a.npy", with_normals)
    np.savez(tmp_path / "one.npz", anything=with_normals)
    np.savez(tmp_path / "more.npz", faces=np.arange(3), points=with_normals)
    for name in ("a.npy", "one.npz", "more.npz"):
        assert np.array_equal(read_cloud(tmp_path / name), POINTS)


def test_real_scans_in_text_and_bytes_are_read(real_data: Path) -> None:
    counts = {"pcn_airplane": 753, "pcn_car": 1511, "pointr_sofa": 1100}
    for name, count in counts.items():
        points = read_cloud(real_data / "pcn_real_partial" / f"{name}.pcd")
        assert points.shape == (count, 3)
        assert np.abs(points).max() < 0.6
    [path, *_] = sorted((real_data / "pcn_like/test/complete").glob("*/*.pcd"))
    points = read_cloud(path)
    assert points.shape == (16_384, 3)
    # Its box has a diagonal of 1, and is centred.
    assert np.linalg.norm(points.max(axis=0) - points.min(axis=0)) == pytest.approx(1, abs=0.02)


def spoilt(value: float) -> np.ndarray:
    points = POINTS.copy()
    points[6, 1] = value
    return points


def saved(write: Callable[..., None], *arrays: np.ndarray, **named: np.ndarray) -> bytes:
    file = io.BytesIO()
    write(file, *arrays, **named)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pcd", pcd("binary_compressed"), "DATA binary_compressed is not read, only ascii"),
        ("a.pcd", pcd("binary")[:-1], "20 points by its header, got 19"),
        ("a.pcd", pcd("ascii").rsplit(b"\n", 3)[0], "20 points by its header, got 18"),
        ("a.pcd", pcd("ascii").rsplit(b" ", 1)[0], "point 20 of 20 has only 5 numbers"),
        ("a.pcd", pcd("ascii", FIELDS="flags x y rgb w"), "'z' is not in list"),
        ("a.pcd", pcd("binary", POINTS=""), "no POINTS in the header"),
        ("a.pcd", pcd("binary", SIZE="4 4 4"), "zip"),
        ("a.pcd", b"", "the header has no a line DATA"),
        ("a.pcd", bytes(range(256)) * 1000, "the header has no a line DATA"),
        ("a.pcd", pcd("binary", spoilt(np.nan)), r"point 7 of 20 is \[.*nan"),
        ("a.pcd", pcd("ascii", spoilt(np.inf)), r"point 7 of 20 is \[.*inf"),
        ("a.ply", ply("ascii").replace(b"ply\n", b"", 1), "no ply in the first line"),
        ("a.ply", ply("binary_little_endian")[:-20], "20 points by its header, got 19"),
        ("a.ply", ply("ascii").replace(b"vertex 20", b"corner 20"), "stands before the vertices"),
        ("a.npy", b"not an array", "."),
        ("a.npy", saved(np.save, np.zeros((4, 2))), r"three coordinates, got shape \(4, 2\)"),
        (
            "a.npy",
            saved(np.save, np.full((20, 3), 1e39)),
            "point 1 of 20",
        ),
        ("a.npy", saved(np.save, np.array([["a", "b", "c"]])), "expected numbers, got <U1"),
        ("a.npz", saved(np.savez, POINTS, POINTS), "an array called points, got arr_0, arr_1"),
        ("a.npz", b"PK not an archive", "."),
        ("a.xyz", b"1 2 3", "a file that ends in .pcd, .ply, .npy, .npz"),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Unusable, match=message) as caught:
        read_cloud(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)

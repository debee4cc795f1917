"""Pictures: the grey of TensorFlow, the files of CIFAR-10, and generated bars."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tasks.lra.image_classification.data import RECORD, ImageClassificationData, grey
from tasks.lra.image_classification.generate import DIRECTIONS, Settings, generate


def colours(count: int, side: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(count, side, side, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def table(path: Path, pictures: np.ndarray, column: str = "img", **changes: Any) -> None:
    images = [{"bytes": png(pixels), "path": None} for pixels in pictures]
    rows = {column: images, "label": [i % 10 for i in range(len(images))]}
    pd.DataFrame({**rows, **changes}).to_parquet(path)


def data(source: Path | str, **given: Any) -> ImageClassificationData:
    made = ImageClassificationData(source=str(source), batch_size=2, **given)
    made.setup()
    return made


def test_grey_is_that_of_tensorflow_within_one() -> None:
    """In float32 as there: to [0, 1], weighted, times 255.5, cut."""
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    every = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    scaled = every.astype(np.float32) * np.float32(1 / 255)
    weights = np.array([0.2989, 0.5870, 0.1140], dtype=np.float32)
    theirs = ((scaled * weights).sum(axis=1) * np.float32(255.5)).astype(np.int64)
    ours = grey(every).astype(np.int64)
    assert abs(ours - theirs).max() <= 1
    assert (ours != theirs).mean() < 0.001
    assert grey(np.array([[0, 0, 0], [255, 255, 255]], dtype=np.uint8)).tolist() == [0, 255]


def binary(pictures: np.ndarray) -> bytes:
    labels = np.arange(len(pictures), dtype=np.uint8)[:, None] % 10
    planes = pictures.transpose(0, 3, 1, 2).reshape(len(pictures), -1)
    return np.concatenate([labels, planes], axis=1).tobytes()


def test_both_forms_give_the_same_rows_split_by_position(tmp_path: Path) -> None:
    train, test = colours(20), colours(5, seed=1)
    table(tmp_path / "train.parquet", train)
    table(tmp_path / "test.parquet", test, column="image")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "data_batch_1.bin").write_bytes(binary(train))
    (tmp_path / "bin" / "test_batch.bin").write_bytes(binary(test))
    one, other = data(tmp_path), data(tmp_path / "bin")
    assert [len(part) for part in (one.train, one.validation, one.test)] == [18, 2, 5]
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(one, part).pixels, getattr(other, part).pixels)
        assert torch.equal(getattr(one, part).labels, getattr(other, part).labels)
    batch = one.validation[torch.tensor([1, 0])]
    assert batch.tokens.tolist() == grey(train[[19, 18]]).reshape(2, -1).tolist()
    assert batch.labels.tolist() == [9, 8]
    assert not batch.is_padding.any()
    assert one.facts["grid"] == (32, 32)
    assert one.dataset == "CIFAR-10-grey-sample"


def test_the_original_masks_black_pixels(tmp_path: Path) -> None:
    pictures = colours(10)
    pictures[0, :4] = 0
    for split in ("train", "test"):
        table(tmp_path / f"{split}.parquet", pictures)
    batch = data(tmp_path, protocol="lra2020").train[torch.tensor([0])]
    assert torch.equal(batch.is_padding, batch.tokens == 0)
    assert batch.is_padding[0, :128].all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"img": [{"bytes": b"no picture"}] * 4},
            r"row 0 \(counted from 0\): expected .* b'no pic",
        ),
        ({"img": [{"bytes": png(colours(1)[0])[:200]}] * 4}, r"row 0 .*picture cannot be read"),
        ({"img": [{"bytes": None, "path": "x.png"}] * 4}, r"expected the bytes of a picture, got"),
        ({"img": [png(colours(1, side=16)[0])] * 4}, r"expected 32 x 32 pixels, got 16 x 16"),
        ({"label": [0, 1, 10, 0]}, r"row 2 .*expected a label of 0 to 9, got 10"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    table(tmp_path / "train.parquet", colours(4), **changes)
    with pytest.raises(ValueError, match=f"train.parquet, .*{message}"):
        data(tmp_path)


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    whole = binary(colours(3))
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match=rf"data_batch_1.bin .* record 2 .*has {RECORD - 5}"):
        data(tmp_path)
    path.write_bytes(whole[: 2 * RECORD] + b"\x0b" + whole[2 * RECORD + 1 :])
    with pytest.raises(ValueError, match=r"data_batch_1.bin, record 2 .*0 to 9, got 11"):
        data(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"missing file .*train.parquet \(or data_batch_1.bin"):
        data(tmp_path)


def test_generated_bars_lie_in_the_direction_of_the_label() -> None:
    pixels, labels = generate(0, 300, Settings(9, 1, num_directions=4))
    for picture, label in zip(pixels.reshape(-1, 9, 9), labels, strict=True):
        down, right = np.argwhere(picture >= 128).T
        step = np.array(DIRECTIONS[label])
        assert len(down) == 4
        assert (np.diff(down) == step[0]).all()
        assert (np.diff(right) == step[1]).all()
    assert np.bincount(labels).min() > 45  # of 75: four deviations
    everywhere = (pixels >= 128).any(axis=0)
    assert everywhere.all()


def test_generated_rows_and_what_is_refused() -> None:
    one, two = (
        data("generated", num_train=300, num_eval=300, max_len=81, seed=seed) for seed in (0, 1)
    )
    assert one.dataset == "shapes-synthetic"
    assert one.facts["num_classes"] == 2
    assert torch.equal(one.test.pixels, two.test.pixels)
    assert not torch.equal(one.train.pixels, two.train.pixels)
    for rule, score in one.trivial_scores().items():
        assert score["accuracy"] < 0.65, rule  # of 0.5: four deviations and more
    given: dict[str, Any] = {"num_train": 8, "num_eval": 8}
    with pytest.raises(ValueError, match=r"pixels of a square, got 80"):
        data("generated", max_len=80, **given)
    with pytest.raises(ValueError, match=r"2 <= bar_len <= side .* bar_len 10 and side 9"):
        data("generated", max_len=81, bar_len=10, **given)
    with pytest.raises(ValueError, match=r"2 <= num_directions <= 4 is not so for 5"):
        data("generated", max_len=81, num_directions=5, **given)

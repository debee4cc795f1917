"""Large images and the small ones made of them: SR3's prepared folders, or any images.

CAB took 70,000 images of FFHQ (Karras et al., CVPR 2019; CC BY-NC-SA 4.0) and 30,000 of CelebA-HQ
(Karras et al., ICLR 2018; non-commercial research). The code that it ran prepares of each a folder
with `hr_128/`, `lr_16/` and `sr_16_128/`: originals, small images, and these enlarged again, each
by Pillow's bicubic filter.
Departs from that code: an image that is not square is cut to a square before it is made smaller,
not after; what is not RGB (it converts) or too small (it enlarges) is left out.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from tasks.prepared import Item, Prepared, Unusable, prepare

ENDINGS = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp"})
VERSION = 1


def resized(image: np.ndarray, side: int) -> np.ndarray:
    """A square image, uint8 (S, S, 3), of another side, by Pillow's bicubic filter."""
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def read_folder(
    folder: Path, *, small: int, large: int, cache_dir: str | None = None, num_workers: int = 0
) -> Prepared:
    """The images of a folder in the order of their names, prepared once.

    Args:
        folder: With `hr_<large>` and `sr_<small>_<large>`, and perhaps `lr_<small>`; or images,
            at any depth.
        small: Side of the small images.
        large: Side of the large ones.
        cache_dir: See `tasks.prepared.prepare`.
        num_workers: The same.

    Returns:
        The fields `original` and `enlarged`, uint8 (images, large, large, 3), and `small`.

    Raises:
        ValueError: If there is no image, or none that can be used.
    """
    if not folder.is_dir():
        raise ValueError(f"super_resolution: no folder {folder}")
    hr, lr, sr = (folder / name for name in layout(small, large))
    if hr.is_dir() and sr.is_dir():
        parts = [hr, sr, lr] if lr.is_dir() else [hr, sr]
        files = [{path.stem: path for path in _images(part)} for part in parts]
        items = [
            # What a part lacks is missing there under the name that it has in the first.
            Item(
                path.name,
                tuple(
                    there.get(stem, part / path.name)
                    for part, there in zip(parts, files, strict=True)
                ),
                [small, large, True],
            )
            for stem, path in files[0].items()
        ]
    else:
        items = [
            Item(str(path.relative_to(folder)), (path,), [small, large, False])
            for path in _images(folder)
        ]
    if not items:
        raise ValueError(f"super_resolution: no image in {folder} ({', '.join(sorted(ENDINGS))})")
    return prepare(
        "super_resolution",
        items,
        read,
        version=VERSION,
        settings={},
        cache_dir=cache_dir,
        num_workers=num_workers,
    )


def layout(small: int, large: int) -> tuple[str, str, str]:
    """The names of SR3's folders: originals, small images, and these enlarged."""
    return f"hr_{large}", f"lr_{small}", f"sr_{small}_{large}"


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())


def read(item: Item) -> dict[str, np.ndarray]:
    """The arrays of an image; see `read_folder`.

    Raises:
        Unusable: If a file of it is broken, not RGB, or has another size than it should.
    """
    small, large, is_prepared = item.about
    image = _pixels(item.files[0])
    if is_prepared:
        _check_side(item.files[0], image, large)
        enlarged = _pixels(item.files[1])
        _check_side(item.files[1], enlarged, large)
        if len(item.files) > 2:
            little = _pixels(item.files[2])
            _check_side(item.files[2], little, small)
        else:
            little = resized(image, small)
    else:
        image = square(image)
        if len(image) < large:
            raise Unusable(
                f"{item.files[0]}: too small, {len(image)} pixels at the shorter side where "
                f"{large} are needed"
            )
        little, image = resized(image, small), resized(image, large)
        enlarged = resized(little, large)
    return {"original": image[None], "enlarged": enlarged[None], "small": little[None]}


def square(image: np.ndarray) -> np.ndarray:
    """The middle of an image (H, W, 3), as large as its shorter side."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def _pixels(path: Path) -> np.ndarray:
    """uint8 (H, W, 3)."""
    try:
        with Image.open(path) as image:
            if image.mode != "RGB":
                raise Unusable(f"{path}: not RGB but {image.mode}")
            return np.asarray(image)
    except FileNotFoundError:
        raise Unusable(f"{path}: missing") from None
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise Unusable(f"{path}: not a readable image: {error}") from error


def _check_side(path: Path, image: np.ndarray, side: int) -> None:
    if image.shape[:2] != (side, side):
        height, width = image.shape[:2]
        raise Unusable(f"{path}: {width} x {height} pixels where {side} x {side} are needed")

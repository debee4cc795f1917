"""Super-resolution: diffusion against dense formulas, scores by hand, images good and bad."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from attentions.base import Pattern
from runners.history import History
from tasks.cab.super_resolution.data import Batch, SuperResolutionData, nearest
from tasks.cab.super_resolution.diffusion import Diffusion, noised
from tasks.cab.super_resolution.generate import DARK, LIGHT, generate, patterns
from tasks.cab.super_resolution.images import read_folder, resized
from tasks.cab.super_resolution.scores import from_bytes, in_bytes, scores
from tasks.cab.super_resolution.task import SuperResolution
from tests.tasks.building import build_data, build_model, quiet_trainer

TINY = "super_resolution/tiny"
PAPER = Diffusion(num_steps=2000, beta_start=1e-6, beta_end=1e-2)


@pytest.fixture(scope="module")
def data() -> SuperResolutionData:
    return build_data(TINY, num_train=64, num_validation=4, num_test=5)


def build(data: SuperResolutionData, attention: str = "softmax", **changes: Any) -> SuperResolution:
    torch.manual_seed(0)
    return build_model(TINY, data, attention, Pattern.NONCAUSAL_SELF, **changes).eval()


# Diffusion


def test_the_schedule_is_the_papers() -> None:
    share, shares = 1.0, [1.0]
    for step in range(2000):
        share *= 1.0 - (1e-6 + step * (1e-2 - 1e-6) / 1999)
        shares.append(share)
    assert PAPER.shares.tolist() == pytest.approx(shares, rel=1e-10)


def test_levels_are_uniform_between_two_steps() -> None:
    few = Diffusion(num_steps=2, beta_start=0.2, beta_end=0.5)
    torch.manual_seed(0)
    levels = few.draw_levels(20_000)
    middle, last = math.sqrt(0.8), math.sqrt(0.4)
    assert levels.min() >= last
    first = levels[levels > middle]
    assert len(first) == pytest.approx(10_000, abs=300)  # four deviations
    assert first.mean().item() == pytest.approx((1 + middle) / 2, abs=2e-3)
    assert levels[levels < middle].mean().item() == pytest.approx((middle + last) / 2, abs=5e-3)


def test_noise_has_the_variance_of_its_level() -> None:
    image, noise = torch.tensor(0.5).expand(3, 1, 1, 1), torch.tensor(2.0).expand(3, 1, 1, 1)
    mixed = noised(image, torch.tensor([1.0, 0.6, 0.0]), noise)
    assert mixed.flatten().tolist() == pytest.approx([0.5, 0.6 * 0.5 + 0.8 * 2.0, 2.0])


@pytest.mark.parametrize("step", [1, 2, 700, 2000])
def test_a_step_back_draws_from_the_posterior(step: int) -> None:
    """Of x before a step, given the image and x behind it, from their joint covariance."""
    shares = PAPER.shares.numpy()
    now, before = shares[step], shares[step - 1]
    kept = math.sqrt(now / before)
    covariance = np.array([[1 - before, kept * (1 - before)], [kept * (1 - before), 1 - now]])
    image, x = 0.3, -0.8
    mean = math.sqrt(before) * image
    mean += covariance[0, 1] / covariance[1, 1] * (x - math.sqrt(now) * image)
    variance = covariance[0, 0] - covariance[0, 1] ** 2 / covariance[1, 1]

    alone = Diffusion(num_steps=1, beta_start=0.5, beta_end=0.5)
    alone.shares = torch.tensor([before, now], dtype=torch.float64)
    drawn = iter([x, 1.0])

    def predict(x: Tensor, level: Tensor) -> Tensor:
        assert level.tolist() == [math.sqrt(now)]
        return (x - math.sqrt(now) * image) / math.sqrt(1 - now)

    def draw() -> Tensor:
        return torch.full((1, 1, 1, 1), next(drawn), dtype=torch.float64)

    expected = mean + math.sqrt(max(variance, 0.0))
    assert alone.sample(predict, draw).item() == pytest.approx(expected, abs=1e-9)


def best_guess(mean: float, std: float) -> Any:
    """The noise that is expected in x, where images are Gaussian."""

    def predict(x: Tensor, level: Tensor) -> Tensor:
        share = level.double()[:, None, None, None] ** 2
        scale = (1 - share).sqrt() / (share * std**2 + 1 - share)
        return scale * (x - share.sqrt() * mean)

    return predict


def test_ancestral_samples_of_gaussian_images_have_their_distribution() -> None:
    torch.manual_seed(0)
    samples = PAPER.sample(
        best_guess(0.2, 0.1), lambda: torch.randn(10, 1, 20, 20, dtype=torch.float64)
    )
    # 4,000 draws deviate by 0.0016 and 0.0011; steps of a finite size make them narrower by 1 %.
    assert samples.mean().item() == pytest.approx(0.2, abs=5e-3)
    assert samples.std().item() == pytest.approx(0.099, abs=4e-3)


def test_fast_samples_of_gaussian_images_follow_the_flow() -> None:
    start = torch.linspace(-2, 2, 5, dtype=torch.float64).view(5, 1, 1, 1)
    last = PAPER.shares[-1].item()
    # The flow keeps the rank: what lies so many deviations off comes to lie as many off.
    expected = 0.2 + 0.1 * (start - math.sqrt(last) * 0.2) / math.sqrt(last * 0.01 + 1 - last)
    errors = []
    for num_steps in (None, 1000, 500):
        samples = PAPER.sample(best_guess(0.2, 0.1), lambda: start, num_steps=num_steps, eta=0.0)
        errors.append((samples - expected).abs().max().item())
    assert errors[0] < 2e-3
    # Of the first order: half the steps, twice the error.
    assert errors[1:] == pytest.approx([2 * errors[0], 4 * errors[0]], rel=0.05)


def test_steps_that_are_skipped_lie_evenly() -> None:
    assert PAPER.times(4) == [2000, 1500, 1000, 500, 0]
    assert PAPER.times(None) == list(range(2000, -1, -1))
    with pytest.raises(ValueError, match="steps must be between 1 and 2000, got 2001"):
        PAPER.times(2001)
    with pytest.raises(ValueError, match=r"beta_start <= beta_end < 1, got 0\.1 and 0\.01"):
        Diffusion(num_steps=5, beta_start=0.1, beta_end=0.01)


# Scores


def psnr_by_hand(one: np.ndarray, other: np.ndarray) -> float:
    squares = [(float(a) - float(b)) ** 2 for a, b in zip(one.flat, other.flat, strict=True)]
    return 20 * math.log10(255 / math.sqrt(sum(squares) / len(squares)))


def ssim_by_hand(one: np.ndarray, other: np.ndarray) -> float:
    """Of images (3, S, S), window by window."""
    away = np.arange(11) - 5
    line = np.exp(-(away**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for x, y in zip(one.astype(float), other.astype(float), strict=True):
        for row in range(len(x) - 10):
            for column in range(len(x) - 10):
                a, b = (z[row : row + 11, column : column + 11] for z in (x, y))
                mean_a, mean_b = (window * a).sum(), (window * b).sum()
                var_a = (window * (a - mean_a) ** 2).sum()
                var_b = (window * (b - mean_b) ** 2).sum()
                both = (window * (a - mean_a) * (b - mean_b)).sum()
                values.append(
                    (2 * mean_a * mean_b + c1)
                    * (2 * both + c2)
                    / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
                )
    return float(np.mean(values))


def test_scores_are_those_by_hand(data: SuperResolutionData) -> None:
    generator = np.random.default_rng(0)
    noise = generator.integers(256, size=(2, 3, 14, 14))
    near = np.clip(noise + generator.integers(-30, 31, size=noise.shape), 0, 255)
    batch = data.test[torch.arange(2)]
    drawn, blurred = batch.original.numpy(), batch.enlarged.numpy()
    for one, other in ((near, noise), (blurred, drawn)):
        found = scores(torch.from_numpy(one), torch.from_numpy(other))
        assert {value.dtype for value in found.values()} == {torch.float64}
        for row in range(2):
            assert found["psnr"][row].item() == pytest.approx(psnr_by_hand(one[row], other[row]))
            expected = ssim_by_hand(one[row], other[row])
            assert found["ssim"][row].item() == pytest.approx(expected, abs=1e-6)


def test_what_is_exact_has_a_finite_score_and_what_is_no_number_none() -> None:
    image = torch.randint(256, (1, 3, 12, 12))
    off = image.clone()
    off[0, 0, 0, 0] += 1 if off[0, 0, 0, 0] < 255 else -1
    same, nearly = scores(image, image), scores(off, image)
    assert same["psnr"].item() == pytest.approx(nearly["psnr"].item())
    assert same["ssim"].item() == pytest.approx(1.0)
    broken = scores(image.double() * torch.nan, image)
    assert all(value.isnan().all() for value in broken.values())


def test_bytes_are_the_nearest_ones() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(in_bytes(from_bytes(values)), values.float())
    assert in_bytes(torch.tensor([-7.0, 0.004, 1.2])).tolist() == [0.0, 128.0, 255.0]
    assert in_bytes(torch.tensor([torch.nan])).isnan().all()


# Generated images


def test_generated_detail_follows_from_the_signs() -> None:
    images = generate(20, 3, small=8, large=16, num_kinds=2)
    for original, small in zip(images.original.astype(int), images.small.astype(int), strict=True):
        is_sign = small[..., 2] == LIGHT
        assert sorted(small[is_sign][:, 0].tolist()) == [DARK, LIGHT]  # one of each kind
        said = {kind: (green - DARK) * 2 // (LIGHT - DARK) for kind, green, _ in small[is_sign]}
        for row in range(8):
            for column in range(8):
                cell = original[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                assert cell.mean(axis=(0, 1)).tolist() == small[row, column].tolist()
                look = patterns(2)[said[small[row, column, 0]]]
                assert (cell - small[row, column] == 60 * look[..., None]).all()


def test_nothing_but_the_signs_tells_of_the_patterns() -> None:
    # Where the sign of a kind is hidden, its patterns are as frequent as each other.
    images = generate(3000, 0, small=8, large=16, num_kinds=2)
    is_first = images.small[:, :1, :1, 0] == LIGHT
    plain = (images.small[:, 0, 0, 2] == DARK) & is_first[:, 0, 0]
    detail = images.original[plain, :2, :2, 0].astype(int) - LIGHT
    for look in patterns(2):
        share = (detail == 60 * look).all(axis=(1, 2)).mean()
        assert share == pytest.approx(1 / 3, abs=0.05)  # four deviations of 1,450 draws


def test_evaluation_rows_are_those_of_every_seed_and_training_rows_are_not() -> None:
    sizes: Any = {"num_train": 8, "num_validation": 8, "num_test": 8}
    one, other = (build_data(TINY, seed=seed, **sizes) for seed in (0, 1))
    rows = torch.arange(8)
    for split in ("validation", "test"):
        a, b = getattr(one, split)[rows], getattr(other, split)[rows]
        assert torch.equal(a.original, b.original)
        assert not torch.equal(a.original, one.train[rows].original)
    assert not torch.equal(one.validation[rows].original, one.test[rows].original)
    assert not torch.equal(one.train[rows].original, other.train[rows].original)


# Real images


def picture(seed: int, height: int = 40, width: int = 40) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def load(tmp_path: Path, **changes: Any) -> SuperResolutionData:
    given: dict[str, Any] = {
        "source": str(tmp_path / "train"),
        "eval_source": str(tmp_path / "eval"),
        "small_size": 4,
        "image_size": 32,
        "num_validation": 2,
        "cache_dir": str(tmp_path / "cache"),
        "batch_size": 1,
    }
    made = SuperResolutionData(**{**given, **changes})
    made.setup()
    return made


def test_folders_are_split_and_prepared(tmp_path: Path) -> None:
    for folder, count in (("train", 3), ("eval/deep", 5)):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(count):
            picture(number, 40 + 7 * number).save(tmp_path / folder / f"{number}.png")
    made = load(tmp_path)
    assert [len(part) for part in (made.train, made.validation, made.test)] == [3, 2, 3]
    assert made.dataset == "train to eval"
    batch = made.test[torch.tensor([2, 0])]
    assert batch.rows.tolist() == [2, 0]
    middle = picture(2, 54).crop((0, 7, 40, 47))
    original, small = (middle.resize((side, side), Image.Resampling.BICUBIC) for side in (32, 4))
    enlarged = small.resize((32, 32), Image.Resampling.BICUBIC)
    for found, image in zip(batch, (original, enlarged, small), strict=False):
        assert np.array_equal(found[0].permute(1, 2, 0).numpy(), np.asarray(image))
    last = made.validation[torch.tensor([1])]
    assert np.array_equal(last.small[0].permute(1, 2, 0), made.test.arrays["small"][4])
    few = load(tmp_path, max_test_items=2)
    assert [len(part) for part in (few.validation, few.test)] == [2, 2]
    found = few.trivial_scores()
    batch = few.test[torch.arange(2)]
    for rule, images in (("bicubic", batch.enlarged), ("nearest", nearest(batch))):
        expected = [
            psnr_by_hand(a, b) for a, b in zip(images.numpy(), batch.original.numpy(), strict=True)
        ]
        assert found[rule]["psnr"] == pytest.approx(sum(expected) / 2)
    assert torch.equal(nearest(batch)[:, :, ::8, ::8], batch.small)
    with pytest.raises(ValueError, match=r"has 5 images .* num_validation 5 leaves none to test"):
        load(tmp_path, num_validation=5)


def test_a_prepared_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    for number in range(2):
        for name, side in (("hr_32", 32), ("lr_4", 4), ("sr_4_32", 32)):
            (tmp_path / name).mkdir(exist_ok=True)
            picture(10 * number + side, side, side).save(tmp_path / name / f"{number}.png")
    picture(0, 32, 32).save(tmp_path / "hr_32/alone.png")
    sizes: dict[str, Any] = {"small": 4, "large": 32, "cache_dir": str(tmp_path / "cache")}
    with pytest.warns(UserWarning, match=r"1 of 3 left out: .*sr_4_32/alone.png: missing"):
        made = read_folder(tmp_path, **sizes)
    assert made.names == ["0.png", "1.png"]
    assert np.array_equal(made.arrays["original"][1], np.asarray(picture(42, 32, 32)))
    assert np.array_equal(made.arrays["small"][1], np.asarray(picture(14, 4, 4)))
    for path in (tmp_path / "lr_4").iterdir():
        path.unlink()
    (tmp_path / "lr_4").rmdir()
    with pytest.warns(UserWarning, match="alone"):
        made = read_folder(tmp_path, **sizes)
    assert np.array_equal(made.arrays["small"][1], resized(np.asarray(picture(42, 32, 32)), 4))


def test_what_cannot_be_used_is_left_out_and_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    for mode in ("L", "RGBA", "P", "CMYK"):
        picture(0).convert(mode).save(bad / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}")
    picture(0, 40, 31).save(bad / "small.png")
    for ending in ("png", "jpg"):
        picture(0, 200, 200).save(bad / f"torn.{ending}")
        content = (bad / f"torn.{ending}").read_bytes()
        (bad / f"torn.{ending}").write_bytes(content[: len(content) // 2])
    (bad / "text.png").write_text("no image")
    (bad / "empty.jpg").touch()
    (bad / "notes.txt").write_text("no image by its name either")
    sizes: dict[str, Any] = {"small": 4, "large": 32, "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(ValueError, match=r"none of 9 items can be used: .*CMYK.jpg: not RGB but C"):
        read_folder(bad, **sizes)
    picture(5).save(bad / "zz.png")
    with pytest.warns(UserWarning, match="super_resolution: 9 of 10 left out"):
        made = read_folder(bad, **sizes)
    assert made.names == ["zz.png"]
    reasons = {Path(text.split(": ")[0]).name: text.split(": ", 1)[1] for text in made.left_out}
    assert reasons["small.png"].startswith("too small, 31 pixels at the shorter side where 32")
    assert reasons["RGBA.png"] == "not RGB but RGBA"
    for name in ("torn.png", "torn.jpg", "text.png", "empty.jpg"):
        assert reasons[name].startswith("not a readable image")
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"no image in .*none"):
        read_folder(tmp_path / "none", **sizes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "hub"}, "no data set on the hub"),
        ({"eval_source": None}, "eval_source must be a folder"),
        ({"eval_source": "./a/../train"}, "same folder"),
        ({"image_size": 8}, "at least 11, the window of SSIM, got 8 and 4"),
        ({"num_validation": 0}, "num_validation must be positive"),
    ],
)
def test_bad_settings_are_told(changes: dict[str, Any], message: str) -> None:
    given = {"source": "train", "eval_source": "eval", "small_size": 4, "image_size": 32}
    with pytest.raises(ValueError, match=message):
        SuperResolutionData(**{**given, "num_validation": 1, "batch_size": 1, **changes})


# The task


def test_a_sample_depends_on_its_row_alone(data: SuperResolutionData) -> None:
    model = build(data)
    whole = model.enlarge(data.test[torch.arange(4)], num_steps=None, eta=1.0)
    some = model.enlarge(data.test[torch.tensor([3, 1])], num_steps=None, eta=1.0)
    # Rounded to whole numbers: sums in another order may tip one.
    assert (some - whole[[3, 1]]).abs().max() <= 1
    other = model.enlarge(data.test[torch.arange(4)], num_steps=None, eta=1.0, number=1)
    assert (other - whole).abs().mean() > 5


def test_the_test_scores_what_is_sampled_and_shows_it(
    data: SuperResolutionData, tmp_path: Path
) -> None:
    model = build(data, num_draws=2, sampling_steps=3, fast_steps=2)
    data.eval_batch_size = 2
    trainer = quiet_trainer()
    (validated,) = trainer.validate(model, data, verbose=False)
    (tested,) = trainer.test(model, data, verbose=False)
    assert validated.keys() == {"loss", "psnr_fast"}
    assert tested.keys() == {"loss"}
    for _ in range(2):  # the second time forgets the first
        trainer.predict(model, data.test_dataloader(), return_predictions=False)
    measured = {m["metric"]: m["value"] for m in model.measure()}
    model.eval()
    batch = data.test[torch.arange(5)]
    drawn = [
        model.enlarge(batch, num_steps=3, eta=1.0, number=number).detach() for number in (0, 1)
    ]
    for name in ("psnr", "ssim"):
        expected = torch.cat([scores(images, batch.original)[name] for images in drawn]).mean()
        assert measured[name] == pytest.approx(expected.item(), rel=1e-3)
    validation = data.validation[torch.arange(4)]
    fast = model.enlarge(validation, num_steps=2, eta=0.0)
    expected = scores(fast, validation.original)["psnr"].mean().item()
    assert validated["psnr_fast"] == pytest.approx(expected, rel=1e-3)
    model.write_samples(tmp_path)
    grid = np.asarray(Image.open(tmp_path / "samples.png")).astype(int)
    assert grid.shape == (5 * 132, 4 * 132, 3)  # each pixel of 12 x 12 is 11 x 11
    columns = (nearest(batch), batch.enlarged, drawn[0], batch.original)
    expected = torch.cat([torch.cat(list(images), dim=1) for images in columns], dim=2)
    assert np.abs(grid[::11, ::11] - expected.permute(1, 2, 0).numpy()).max() <= 1


def test_the_loss_of_a_row_is_the_same_in_every_batch(data: SuperResolutionData) -> None:
    model = build(data)
    losses = []
    for size in (1, 4):
        data.eval_batch_size = size
        (tested,) = quiet_trainer().test(model, data, verbose=False)
        losses.append(tested["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_flips_are_of_both_images_and_of_training_alone(
    data: SuperResolutionData, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(data, flips=True)
    seen: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr(model, "_error", lambda *given: seen.append(given[:2]) or torch.zeros(1))
    batch: Batch = data.train[torch.arange(64)]
    for mode in (True, False):
        model.train(mode).loss(batch)
    plain = from_bytes(batch.original), from_bytes(batch.enlarged)
    is_flipped = (seen[0][0] != plain[0]).flatten(1).any(1)
    assert 16 < is_flipped.sum() < 48
    for images, original in zip(seen[0], plain, strict=True):
        assert torch.equal(images[is_flipped], original[is_flipped].flip(3))
        assert torch.equal(images[~is_flipped], original[~is_flipped])
    assert torch.equal(seen[1][0], plain[0])


def test_training_goes_on_as_if_it_had_not_been_interrupted(
    data: SuperResolutionData, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"limit_val_batches": 0, "limit_train_batches": 2}

    def trained(epochs: int, ckpt_path: Path | None = None) -> tuple[SuperResolution, Any]:
        model = build(data, dropout=0.1, flips=True)
        trainer = quiet_trainer(max_epochs=epochs, callbacks=[History(0, frozenset())], **settings)
        data.first_epoch = 0 if ckpt_path is None else 1
        trainer.fit(model, data, ckpt_path=ckpt_path)
        return model, trainer

    whole, _ = trained(2)
    _, trainer = trained(1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed, _ = trained(2, tmp_path / "last.ckpt")
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_one_batch_of_real_faces_is_learned_by_heart(real_data: Path, tmp_path: Path) -> None:
    """With the same noise in every step: what is drawn anew, nobody can know."""
    faces = real_data / "faces"
    data = SuperResolutionData(
        source=str(faces / "train_16_128" / "originals_512"),
        eval_source=str(faces / "val_16_128" / "originals_512"),
        small_size=8,
        image_size=16,
        num_validation=2,
        batch_size=2,
        cache_dir=str(tmp_path),
    )
    data.setup()
    model = build(data, flips=False).train()
    batch = data.train[torch.arange(2)]
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    losses = []
    for _ in range(300):
        torch.manual_seed(0)
        loss, _ = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        losses.append(loss.item())
    assert losses[0] > 0.5
    assert losses[-1] < 0.02

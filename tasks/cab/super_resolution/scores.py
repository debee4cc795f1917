"""How near an image comes to the original, in 8 bits as CAB scores: PSNR and SSIM.

Source: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity",
IEEE TIP 2004. CAB takes a Gaussian window of 11 x 11, standard deviation 1.5, and the pixels whose
window lies within the image.
Departs from CAB: an image without any error counts as one with a single value off by one, where
the PSNR would be infinite and so would its mean.
"""

import math

from torch import Tensor

NAMES = ("psnr", "ssim")
WINDOW = 11


def scores(images: Tensor, originals: Tensor) -> dict[str, Tensor]:
    """PSNR in dB and SSIM of each image, float64 (B,) by name.

    Args:
        images: Whole numbers 0 to 255, of any type, (B, 3, S, S), S at least `WINDOW`. NaN gives
            NaN.
        originals: The same.
    """
    # Imported here: it takes longer to import than a generated run to prepare.
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    images, originals = images.double(), originals.double()
    most = 20 * math.log10(255) + 10 * math.log10(images[0].numel())
    psnr = peak_signal_noise_ratio(
        images, originals, data_range=255.0, dim=(1, 2, 3), reduction="none"
    )
    # Its own mean is of all pixels, at the edges of mirrored images.
    _, at_pixels = structural_similarity_index_measure(
        images,
        originals,
        gaussian_kernel=True,
        sigma=1.5,
        kernel_size=WINDOW,
        reduction="none",
        data_range=255.0,
        k1=0.01,
        k2=0.03,
        return_full_image=True,
    )
    edge = WINDOW // 2
    ssim = at_pixels[..., edge:-edge, edge:-edge].mean(dim=(1, 2, 3))
    return {"psnr": psnr.clamp(max=most), "ssim": ssim}


def in_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1] as whole numbers 0 to 255, still floating-point: NaN stays NaN."""
    return ((images.clamp(-1.0, 1.0) + 1.0) * 127.5).round()


def from_bytes(images: Tensor) -> Tensor:
    """uint8 as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1.0

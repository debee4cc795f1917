"""Documents as rows of bytes: token 0 is padding, the others are a byte and 1."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

PAD = 0
VOCAB_SIZE = 257


class Documents:
    """Texts, cut and then padded to one length.

    Args:
        texts: Their bytes.
        max_len: What they are cut to.
    """

    def __init__(self, texts: Sequence[bytes], max_len: int) -> None:
        cut = [text[:max_len] for text in texts]
        self.max_len = max_len
        self.bytes = np.frombuffer(b"".join(cut) or b"\0", dtype=np.uint8)
        self.lengths = np.array([len(text) for text in cut], dtype=np.int64)
        self.begins = self.lengths.cumsum() - self.lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> np.ndarray:
        """The bytes of one document, uint8 (its length,)."""
        return self.bytes[self.begins[number] : self.begins[number] + self.lengths[number]]

    def tokens(self, numbers: Tensor) -> Tensor:
        """The tokens of some documents, int64 (documents, max_len)."""
        chosen = numbers.numpy()
        column = np.arange(self.max_len)
        is_there = column < self.lengths[chosen, None]
        places = np.where(is_there, self.begins[chosen, None] + column, 0)
        return torch.from_numpy(np.where(is_there, self.bytes[places].astype(np.int64) + 1, PAD))

"""CAB's SR: from a small image to a large one, by SR3's diffusion."""

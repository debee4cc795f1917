"""Long Range Arena: classification of long sequences, generated on the spot where it can be."""

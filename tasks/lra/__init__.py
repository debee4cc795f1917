"""Long Range Arena: sequences of 1,000 to 16,000 tokens, each to be classified."""

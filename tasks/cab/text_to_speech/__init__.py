"""Text to speech: spoken sentences, and two backbones that speak."""

"""Image: what a grey picture shows, read pixel by pixel."""

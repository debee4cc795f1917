"""The attention mechanisms: one file each, by family. Imports nothing from tasks or runners."""

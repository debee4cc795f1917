"""Tasks: data, backbone, loss and metrics. Imports attentions, never runners."""

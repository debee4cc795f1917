"""What a trained model attends to: the maps of its attentions, and scores of each head."""

"""Published models with places for an attention."""

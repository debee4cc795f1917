"""Books as token streams, which both language-modelling tasks read."""

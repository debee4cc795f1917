"""Pure functions that several mechanisms share: the only place for a hot loop."""

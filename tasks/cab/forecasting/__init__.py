"""Long-sequence forecasting (LSTF): what a set of series does in the coming hours."""

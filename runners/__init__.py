"""Everything that executes: the commands, the records, the report."""

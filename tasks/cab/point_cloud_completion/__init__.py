"""Point cloud completion (PCC): the whole shape, of which one side was scanned."""

"""What rules that understand nothing reach: rows beside the mechanisms' own."""

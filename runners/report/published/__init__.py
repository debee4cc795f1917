"""What papers published, in our names, and tables of ours beside it: a file per benchmark."""

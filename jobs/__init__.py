"""One module per command; each is an entry point of the command line and of a Ray job."""

"""The command line, thin over the library: one command a file, `main` the group."""

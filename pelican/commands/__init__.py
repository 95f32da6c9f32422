"""What the command line does; `pelican.cli` only reads the arguments."""

"""What the command line does; `pelican.cli.main` only reads the arguments."""

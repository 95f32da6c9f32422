"""`python -m pelican`."""

from pelican.cli import main

main()

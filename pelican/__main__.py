"""`python -m pelican`."""

from pelican.cli.main import main

main()

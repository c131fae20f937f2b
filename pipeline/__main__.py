"""`python -m pipeline <verb>`."""

from pipeline.cli import main

main()

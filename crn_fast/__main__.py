"""`python -m crn_fast` is `crn-fast`."""

from crn_fast.cli import main

main()

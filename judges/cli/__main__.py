"""`python -m judges.cli`, and so `accelerate launch -m judges.cli train …`."""

from judges.cli import main

main()

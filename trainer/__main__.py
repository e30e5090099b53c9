"""`python -m trainer`, and with several processes `accelerate launch -m trainer`."""

from trainer.cli import main

main()

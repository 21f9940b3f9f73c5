"""One folder a paper, one file a result, one command each: `python -m experiments list`."""

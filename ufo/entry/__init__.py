"""What train.py and evaluate.py run, and `ufo train` and `ufo evaluate` as well: the same two functions."""

"""`cardprod watch`: what one run does, what it counts, and the checkpoint file that another run continues from."""

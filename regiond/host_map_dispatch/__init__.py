"""What clusters are given: who comes with what, who is to have what, and the calls that bring them there."""

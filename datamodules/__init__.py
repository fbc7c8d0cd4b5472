"""What is trained on: pairs, the attacks on them, and the sets that success is measured with."""

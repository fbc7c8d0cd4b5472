"""What the towers of a trained model look at, and where they put pictures and captions."""

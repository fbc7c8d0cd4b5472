"""Tools that prepare attacks with a trained model."""

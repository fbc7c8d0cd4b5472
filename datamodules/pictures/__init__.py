"""Pictures: opening, caching, augmenting, drawing, and batches of them."""

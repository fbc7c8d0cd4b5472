"""Sets that models are measured on: labeled pictures, triggered pictures and their prompts."""

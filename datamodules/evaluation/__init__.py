"""What models are measured on: labeled pictures, triggered pictures, prompts."""

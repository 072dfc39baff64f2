"""regionctl, one module per noun."""

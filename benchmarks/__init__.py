"""What the claims of speed and quality rest on: each program writes its table and its figures."""

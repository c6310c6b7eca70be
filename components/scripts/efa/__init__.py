"""What pods over several nodes prove before their engine starts. Runs inside them: plain Python, relative imports."""

"""What `repro verify` computes anew by other means: each check holds it against something independent."""

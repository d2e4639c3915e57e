"""The maker of generations: follows the archive and copies projections into it."""

"""What a node does while another is the writer: it follows the archive into its own log."""

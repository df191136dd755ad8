"""What belongs to clients: their shares, their requests, the answers that they wait for."""
